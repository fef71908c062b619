// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

const (
	// maxBody bounds an answer: a discovery chain or an endpoint list of more
	// is not one.
	maxBody = 32 << 20
	// maxErrorBody bounds what is kept of an answer that is not 200: it ends
	// up in logs.
	maxErrorBody = 512
	// noToken keeps Consul's client library from taking a token out of the
	// environment; it is never sent.
	noToken = "the token of the configuration"
)

var errBodyTooLarge = errors.New("the answer is larger than a Consul agent's can be")

// newHTTPClient returns a client for one Consul agent, and the source of the
// token on its requests. It never follows a redirect: the token would follow too.
func newHTTPClient(cfg Config, b base, s *seat, logger hclog.Logger) (*http.Client, source, error) {
	// Consul's client library is asked for the transport it would use itself,
	// so that proxies and TLS files mean the same as everywhere with Consul.
	transport := api.DefaultConfig().Transport
	transport.MaxIdleConnsPerHost = 64
	tls, err := api.SetupTLSConfig(&api.TLSConfig{
		Address:            cfg.TLS.ServerName,
		CAFile:             cfg.TLS.CAFile,
		CAPath:             cfg.TLS.CAPath,
		CertFile:           cfg.TLS.CertFile,
		KeyFile:            cfg.TLS.KeyFile,
		InsecureSkipVerify: cfg.TLS.InsecureSkipVerify,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("consul TLS settings: %w", err)
	}
	transport.TLSClientConfig = tls
	if cfg.Dial != nil {
		transport.Proxy = nil // it is reached from where the process is
		transport.DialContext = cfg.Dial
	}
	if b.socket != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", b.socket)
		}
	}
	from, err := newSource(cfg, b, s, transport, logger)
	if err != nil {
		return nil, nil, err
	}
	return &http.Client{
		Transport:     &guard{next: transport, from: from, limit: maxBody},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, from, nil
}

func newSource(cfg Config, b base, s *seat, next http.RoundTripper, logger hclog.Logger) (source, error) {
	if cfg.Login == nil {
		return newToken(cfg, s, logger), nil
	}
	return newLogin(cfg, b, s, next, logger)
}

// A guard puts the current token on each request and bounds each answer.
type guard struct {
	next  http.RoundTripper
	from  source
	limit int64
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	// A request may carry a token of its own, that of one service.
	token, ours := request.Header.Get("X-Consul-Token"), false
	if token == "" || token == noToken {
		var err error
		if token, err = g.from.current(request.Context()); err != nil {
			if request.Body != nil {
				_ = request.Body.Close()
			}
			return nil, err
		}
		ours = true
		request.Header.Del("X-Consul-Token")
		if token != "" {
			request.Header.Set("X-Consul-Token", token)
		}
	}
	response, err := g.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	switch {
	case response.StatusCode == http.StatusOK:
		response.Body = &bounded{ReadCloser: response.Body, left: g.limit}
	case ours && (response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusUnauthorized):
		g.refused(response, token)
	default:
		response.Body = body{io.LimitReader(response.Body, maxErrorBody), response.Body}
	}
	return response, nil
}

// refused looks whether Consul does not know the token, and leaves the answer
// for whoever asked.
func (g *guard) refused(response *http.Response, token string) {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	if err == nil && unknownToken(response.StatusCode, string(text)) {
		g.from.unknown(token)
	}
	response.Body = body{bytes.NewReader(text), response.Body}
}

// A body reads from one place and closes another.
type body struct {
	io.Reader
	io.Closer
}

// CloseIdleConnections lets http.Client reach the transport behind the guard.
func (g *guard) CloseIdleConnections() {
	if c, ok := g.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// bounded fails, rather than ends, when a body is longer than allowed: a cut
// answer must not be taken for a whole one.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errBodyTooLarge
	}
	// One byte more than is left tells an answer of just that size from a
	// larger one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, errBodyTooLarge
	}
	return n, err
}
