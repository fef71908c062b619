// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"fmt"
	"net/url"
	"strings"
)

// A Gateway is the SPIFFE ID of a mesh gateway. It never stands for a service.
// All fields are set; TrustDomain and Partition are lower case.
//
// The form is Consul's (Consul, Connect certificates: mesh gateways):
//
//	spiffe://<trust domain>[/ap/<partition>]/gateway/mesh/dc/<datacenter>
type Gateway struct {
	TrustDomain string
	Partition   string // "default" when the URI has no /ap/ part
	Datacenter  string
}

// ParseGateway reads the SPIFFE ID of a mesh gateway; that of anything else is
// an error.
func ParseGateway(u *url.URL) (Gateway, error) {
	if err := checkSPIFFE(u); err != nil {
		return Gateway{}, err
	}
	segments, err := splitPath(u.EscapedPath())
	if err != nil {
		return Gateway{}, fmt.Errorf("identity %q: %w", u.Redacted(), err)
	}
	g := Gateway{TrustDomain: strings.ToLower(u.Host), Partition: DefaultName}
	if len(segments) == 6 && segments[0] == "ap" {
		g.Partition = strings.ToLower(segments[1])
		segments = segments[2:]
	}
	if len(segments) != 4 || segments[0] != "gateway" || segments[1] != "mesh" || segments[2] != "dc" {
		return Gateway{}, fmt.Errorf("identity %q is not that of a mesh gateway", u.Redacted())
	}
	g.Datacenter = segments[3]
	return g, nil
}

// String returns the SPIFFE ID as a URI in Consul's canonical form.
func (g Gateway) String() string {
	var path strings.Builder
	if g.Partition != "" && g.Partition != DefaultName {
		path.WriteString("/ap/" + url.PathEscape(g.Partition))
	}
	path.WriteString("/gateway/mesh/dc/" + url.PathEscape(g.Datacenter))
	return "spiffe://" + g.TrustDomain + path.String()
}

// CanonicalID returns the one form of a SPIFFE ID of a service or a mesh gateway
// in which two of them can be compared as text; that of anything else is an
// error.
func CanonicalID(u *url.URL) (string, error) {
	if id, err := ParseIdentity(u); err == nil {
		return id.String(), nil
	}
	g, err := ParseGateway(u)
	if err != nil {
		return "", fmt.Errorf("neither a service nor a gateway: %w", err)
	}
	return g.String(), nil
}
