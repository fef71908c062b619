// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// vouch tells the application whom mTLS has proved the caller to be: one more
// element at the end of x-forwarded-client-cert. gRPC services and those whose
// mesh entry says so get no such header, as with Consul's own proxies.
func (x *exchange) vouch(s *httpService, h connect.Header) {
	if s.sanitize || s.protocol == connect.GRPC {
		delete(h, xfcc)
		return
	}
	mine := "By=" + s.identity + x.c.vouched
	if before, ok := h.Lookup(xfcc); ok && before != "" && quotesClosed(before) {
		mine = before + "," + mine
	}
	h[xfcc] = []string{mine}
}

// quotesClosed reports whether every quoted string has an end. One that has none
// would swallow the element that follows it.
func quotesClosed(s string) bool {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '\\' && quoted:
			i++
		}
	}
	return !quoted && !strings.HasSuffix(s, `\`)
}

// vouched is the part of an element that is about the caller, made once for a
// connection: Envoy's form of a Consul sidecar.
func vouched(chain []*x509.Certificate) string {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	var all strings.Builder
	for _, c := range chain {
		all.WriteString(escapedPEM(c))
	}
	var b strings.Builder
	b.WriteString(";Hash=")
	b.WriteString(hex.EncodeToString(sum[:]))
	b.WriteString(`;Cert="` + escapedPEM(leaf) + `"`)
	b.WriteString(`;Chain="` + all.String() + `"`)
	b.WriteString(`;Subject="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(leaf.Subject.String()) + `"`)
	for _, u := range leaf.URIs {
		b.WriteString(";URI=" + u.String())
	}
	for _, name := range leaf.DNSNames {
		b.WriteString(";DNS=" + url.QueryEscape(name))
	}
	return b.String()
}

func escapedPEM(c *x509.Certificate) string {
	return strings.ReplaceAll(url.QueryEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))), "+", "%20")
}
