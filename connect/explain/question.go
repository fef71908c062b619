// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A Question asks what becomes of a call.
type Question struct {
	Source      string // a service; "east/web" is one of peer east
	Destination string // a service, or an upstream by its ID
	Method      string // "" with Path "" asks about a connection
	Path        string // with its query
	Authority   string // "" means Destination
	Header      connect.Header
}

// Bounds of a question: longer is no name and no request that a sidecar takes.
const (
	maxName   = 512
	maxPath   = 16 << 10
	maxFields = 128
	maxField  = 16 << 10
)

// New checks a question. fields are header fields as "name: value". The error
// names the part that cannot be understood, and quotes no value of a field.
func New(source, destination, method, path, authority string, fields []string) (Question, error) {
	q := Question{Source: source, Destination: destination, Method: method, Path: path, Authority: authority, Header: connect.Header{}}
	switch {
	case source == "" || destination == "":
		return q, errors.New("a source and a destination are needed, such as: web api GET /")
	case len(source) > maxName || len(destination) > maxName || len(authority) > maxName || len(method) > maxName:
		return q, fmt.Errorf("a name, the method or the host is longer than %d bytes", maxName)
	case len(path) > maxPath:
		return q, fmt.Errorf("the path is longer than %d bytes", maxPath)
	case len(fields) > maxFields:
		return q, fmt.Errorf("there are %d header fields, more than %d", len(fields), maxFields)
	case (method == "") != (path == ""):
		return q, errors.New("a method and a path go together; leave both out to ask about a connection")
	case method == "" && len(fields) > 0:
		return q, errors.New("a connection has no header; give a method and a path as well")
	}
	for i, f := range fields {
		name, value, ok := strings.Cut(f, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || len(f) > maxField {
			return q, fmt.Errorf("header field %d is not of the form \"name: value\", or is longer than %d bytes", i+1, maxField)
		}
		if strings.EqualFold(name, "host") {
			q.Authority = strings.TrimSpace(value)
			continue
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		q.Header[key] = append(q.Header[key], strings.TrimSpace(value))
	}
	return q, nil
}

// HTTP reports whether the question is about a request.
func (q Question) HTTP() bool { return q.Method != "" }

// Head is the request that is asked about: GET / when it is about a connection.
func (q Question) Head() connect.Head {
	h := connect.Head{Method: q.Method, Scheme: "http", Authority: q.Authority, Path: q.Path, Header: q.Header}
	if !q.HTTP() {
		h.Method, h.Path = "GET", "/"
	}
	if h.Authority == "" {
		_, name := splitPeer(q.Destination)
		h.Authority, _, _ = strings.Cut(name, "?")
	}
	if h.Header == nil {
		h.Header = connect.Header{}
	}
	return h
}

// splitPeer splits "east/web" into peer and service; the peer is "" for "web".
func splitPeer(name string) (peer, service string) {
	if before, after, ok := strings.Cut(name, "/"); ok {
		return before, after
	}
	return "", name
}

// Caller is the identity of the source for a destination, for whose sidecar is
// not here: of the destination's own cluster and namespace, or of a peer of it.
// peers are those that the destination knows.
func (q Question) Caller(to connect.Service, trustDomain string, peers map[string]connect.Peer) connect.Identity {
	peer, name := splitPeer(q.Source)
	id := connect.Identity{TrustDomain: trustDomain, Partition: to.Partition, Namespace: to.Namespace, Datacenter: to.Datacenter, Service: name, Peer: peer}
	if p := peers[peer]; peer != "" && p.Proves() {
		id.TrustDomain, id.Partition = p.Bundle.TrustDomain, p.Partition
	}
	return id
}
