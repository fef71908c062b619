// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package ledger

import (
	"net/http"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// A call is what the ledger keeps of a record.
type call struct {
	inbound, allowed bool
	source           connect.Identity
	destination      string
	method, path     string // path as it came, without its query
	wide             bool   // path stands for any
}

// of returns false for a record that the ledger does not keep.
func of(r *flow.Record) (call, bool) {
	c := call{source: r.Source, allowed: r.Allowed}
	switch {
	case r.Kind == flow.Connection && r.Requests > 0:
		return c, false // its requests have records
	case r.Direction == flow.Inbound && r.Judged:
		c.inbound, c.destination = true, r.Service
	case r.Direction == flow.Outbound && r.Endpoint != "":
		// Only the other side's sidecar judges, and says so.
		c.allowed = !r.Remote || (r.Reason != connect.IntentionDenied && r.Reason != connect.JWTInvalid)
		c.destination = called(r)
	default:
		return c, false
	}
	if r.Kind == flow.Request {
		c.method, c.path = r.Method, r.PathOnly()
		if c.method == "" {
			return c, false
		}
	}
	names := len(c.source.Service) + len(c.source.Peer) + len(c.source.Namespace) + len(c.source.Partition) + len(c.destination)
	if c.source.Service == "" || c.destination == "" || names > maxNames {
		return c, false
	}
	if len(c.method) > maxMethod {
		c.method = anyMethod
	}
	return c, true
}

// called is the service that routing has chosen, "[subset.]service.ns.partition.dc"
// of the target, or else the upstream.
func called(r *flow.Record) string {
	parts := string(r.Target)
	for range 3 {
		i := strings.LastIndexByte(parts, '.')
		if i < 0 {
			return string(r.Upstream)
		}
		parts = parts[:i]
	}
	if i := strings.LastIndexByte(parts, '.'); i >= 0 {
		parts = parts[i+1:]
	}
	if parts == "" {
		return string(r.Upstream)
	}
	return parts
}

// widen makes the call one of any path, and of any method where it is none of
// the usual ones, which are all that a caller cannot make up.
func (c *call) widen() {
	c.wide = true
	switch c.method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect:
	default:
		c.method = anyMethod
	}
}

// guest reports whether the call is of somebody who must not take the room of
// others: who is denied, and a peer, which can make up as many services as it
// likes.
func (c *call) guest() bool { return !c.allowed || c.source.Peer != "" }

// key appends what tells the edge from others. No part can hold the zero byte
// that ends it: names come from certificates and Consul, methods and paths were
// checked as those of HTTP.
func (c *call) key(room []byte) []byte {
	room = c.pair(room)
	room = append(append(room, c.method...), 0)
	if c.wide {
		return append(room, anyPath...)
	}
	return appendForm(room, c.path)
}

// pair appends what is common to all paths of two services with one verdict.
func (c *call) pair(room []byte) []byte {
	flags := byte('a')
	if c.inbound {
		flags++
	}
	if c.allowed {
		flags += 2
	}
	room = append(room, flags)
	for _, part := range [...]string{c.source.Service, c.source.Peer, c.source.Namespace, c.source.Partition, c.destination} {
		if part != connect.DefaultName {
			room = append(room, part...)
		}
		room = append(room, 0)
	}
	return room
}

func (c *call) edge() Edge {
	e := Edge{
		Direction: outboundWord, Source: c.source.Service, Peer: c.source.Peer, Destination: c.destination,
		Namespace: unlessDefault(c.source.Namespace), Partition: unlessDefault(c.source.Partition),
		Method: c.method, Allowed: c.allowed,
	}
	if c.inbound {
		e.Direction = inboundWord
	}
	switch {
	case c.wide:
		e.Path = anyPath
	case c.path != "":
		e.Path = string(appendForm(nil, c.path))
		if strings.Contains(e.Path, idForm) {
			e.Sample = sample(c.path, e.Path)
		}
	}
	// What is kept must not hold on to the memory of a request.
	e.Source, e.Peer, e.Destination, e.Method = strings.Clone(e.Source), strings.Clone(e.Peer), strings.Clone(e.Destination), strings.Clone(e.Method)
	return e
}

func unlessDefault(name string) string {
	if name == connect.DefaultName {
		return ""
	}
	return strings.Clone(name)
}

// shardOf spreads keys by where they differ. It need not be good, only quick.
func shardOf(key []byte) uint {
	n := len(key)
	return (uint(n)*5 + uint(key[n-1])*3 + uint(key[n/2])) % shardCount
}
