// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"fmt"
	"net/url"
	"strings"
)

// DefaultName is the name of the namespace and the partition that Consul
// Community Edition uses everywhere.
const DefaultName = "default"

// An Identity is the SPIFFE ID of one service. All fields are set; TrustDomain
// and Partition are lower case. Identities are comparable with ==.
//
// The form is Consul's (agent certificates and service identities in Consul's
// documentation of Connect certificates):
//
//	spiffe://<trust domain>[/ap/<partition>]/ns/<namespace>/dc/<datacenter>/svc/<service>
type Identity struct {
	TrustDomain string // "<cluster uuid>.consul"
	Partition   string // "default" when the URI has no /ap/ part
	Namespace   string
	Datacenter  string
	Service     string
	// Peer is the name of the cluster peer whose roots have proved the identity,
	// "" for our own cluster's. It is not part of the SPIFFE ID.
	Peer string
}

// Label names the service as a person would: "web", or "east/web" for one of
// peer east.
func (id Identity) Label() string {
	if id.Peer == "" {
		return id.Service
	}
	return id.Peer + "/" + id.Service
}

// ParseIdentity reads the SPIFFE ID of a service. Identities of gateways,
// agents and servers are errors: they never stand for a service. Path segments
// are unescaped one by one, so an escaped slash cannot forge a segment.
func ParseIdentity(u *url.URL) (Identity, error) {
	if err := checkSPIFFE(u); err != nil {
		return Identity{}, err
	}
	segments, err := splitPath(u.EscapedPath())
	if err != nil {
		return Identity{}, fmt.Errorf("identity %q: %w", u.Redacted(), err)
	}
	id := Identity{TrustDomain: strings.ToLower(u.Host), Partition: DefaultName}
	if len(segments) == 8 && segments[0] == "ap" {
		id.Partition = strings.ToLower(segments[1])
		segments = segments[2:]
	}
	if len(segments) != 6 || segments[0] != "ns" || segments[2] != "dc" || segments[4] != "svc" {
		return Identity{}, fmt.Errorf("identity %q is not that of a service: want spiffe://<trust domain>/ns/<namespace>/dc/<datacenter>/svc/<service>", u.Redacted())
	}
	id.Namespace, id.Datacenter, id.Service = segments[1], segments[3], segments[5]
	return id, nil
}

func checkSPIFFE(u *url.URL) error {
	switch {
	case u == nil:
		return fmt.Errorf("identity is missing")
	case !strings.EqualFold(u.Scheme, "spiffe"):
		return fmt.Errorf("identity %q: scheme is %q, want spiffe", u.Redacted(), u.Scheme)
	case u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("identity %q: only a trust domain and a path are allowed", u.Redacted())
	case u.Host == "" || strings.ContainsAny(u.Host, ":@"):
		return fmt.Errorf("identity %q: %q is not a trust domain", u.Redacted(), u.Host)
	}
	return nil
}

func splitPath(escaped string) ([]string, error) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, fmt.Errorf("path is empty")
	}
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil {
			return nil, fmt.Errorf("path segment %d: %w", i+1, err)
		}
		if plain == "" {
			return nil, fmt.Errorf("path segment %d is empty", i+1)
		}
		segments[i] = plain
	}
	return segments, nil
}

// URI returns the SPIFFE ID in Consul's canonical form: no /ap/ part for the
// default partition.
func (id Identity) URI() *url.URL {
	var path, raw strings.Builder
	add := func(key, value string) {
		path.WriteString("/" + key + "/" + value)
		raw.WriteString("/" + key + "/" + url.PathEscape(value))
	}
	if id.Partition != "" && id.Partition != DefaultName {
		add("ap", id.Partition)
	}
	add("ns", id.Namespace)
	add("dc", id.Datacenter)
	add("svc", id.Service)
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: path.String(), RawPath: raw.String()}
}

// String returns the SPIFFE ID as a URI.
func (id Identity) String() string { return id.URI().String() }
