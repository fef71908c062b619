// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"net/http"
	"strconv"
	"time"
)

// A blocked query is one that was asked with an index and is under way.
type blocked struct {
	s    *session
	path string
	done chan response
}

// ask starts a blocking query that waits for news after an answer.
func (s *session) ask(path string, after response, wait string) blocked {
	b := blocked{s, path, make(chan response, 1)}
	go func() {
		r, err := s.try(http.MethodGet, query(path, "index", index(after), "wait", wait), "")
		if err != nil {
			s.Errorf("%s: %s: %v", s.base, path, err)
		}
		b.done <- r
	}()
	return b
}

// still makes sure that the query blocks: nothing comes for a while.
func (b blocked) still() {
	b.s.Helper()
	select {
	case r := <-b.done:
		b.s.Errorf("%s: %s did not block: index %s: %s", b.s.base, b.path, index(r), r.body)
	case <-time.After(200 * time.Millisecond):
	}
}

// woken waits for the answer, which must have a higher index.
func (b blocked) woken(after response) response {
	b.s.Helper()
	select {
	case r := <-b.done:
		if number(b.s, r) <= number(b.s, after) {
			b.s.Errorf("%s: %s: index %s after %s did not rise", b.s.base, b.path, index(r), index(after))
		}
		return r
	case <-time.After(20 * time.Second):
		b.s.Fatalf("%s: %s was not woken", b.s.base, b.path)
	}
	return response{}
}

func number(s *session, r response) uint64 {
	s.Helper()
	n, err := strconv.ParseUint(index(r), 10, 64)
	if err != nil || n == 0 {
		s.Fatalf("%s: X-Consul-Index is %q", s.base, index(r))
	}
	return n
}

func blocking(s *session) {
	s.put(register, `{"Name":"api","Port":1,"Connect":{"SidecarService":{"Checks":[{"CheckID":"ttl","TTL":"1h","Status":"passing"}]}}}`)
	s.until("/v1/health/connect/api", func(r response) bool { return r.body != "[]" })
	s.entry(`{"Kind":"service-resolver","Name":"other"}`)
	// For each: what wakes it, and what does not.
	for _, c := range []struct {
		path          string
		quiet, change func()
	}{
		{
			"/v1/health/connect/api",
			func() { s.entry(`{"Kind":"mesh"}`) },
			func() { s.put("/v1/agent/check/warn/ttl", "") },
		},
		{
			"/v1/health/connect/new",
			nil,
			func() {
				s.put(register, `{"Name":"new","Port":1,"Connect":{"SidecarService":{"Checks":[{"TTL":"1h"}]}}}`)
			},
		},
		{
			"/v1/health/connect/new",
			nil,
			func() { s.put("/v1/agent/service/deregister/new", "") },
		},
		{
			"/v1/health/connect/new",
			nil,
			func() {
				s.put(register, `{"Name":"new","Port":1,"Connect":{"SidecarService":{"Checks":[{"TTL":"1h"}]}}}`)
			},
		},
		{
			"/v1/config/service-resolver/api", // missing
			func() { s.entry(`{"Kind":"service-resolver","Name":"other","ConnectTimeout":"2s"}`) },
			func() { s.entry(`{"Kind":"service-resolver","Name":"api","ConnectTimeout":"2s"}`) },
		},
		{
			"/v1/config/service-resolver/api", // there
			nil,
			func() { s.call(http.MethodDelete, "/v1/config/service-resolver/api", "") },
		},
		{
			"/v1/config/proxy-defaults", // an empty list: Consul wakes it for any entry
			nil,
			func() { s.entry(`{"Kind":"proxy-defaults","Name":"global","Config":{"x":1}}`) },
		},
		{
			"/v1/discovery-chain/api",
			func() { s.entry(`{"Kind":"service-resolver","Name":"other","ConnectTimeout":"4s"}`) },
			func() { s.entry(`{"Kind":"service-resolver","Name":"api","ConnectTimeout":"4s"}`) },
		},
		{
			"/v1/connect/intentions/match?by=destination&name=api",
			func() { s.put(query(exact, "source", "web", "destination", "other"), `{"Action":"deny"}`) },
			func() { s.put(query(exact, "source", "web", "destination", "api"), `{"Action":"deny"}`) },
		},
	} {
		before := s.settled(c.path)
		b := s.ask(c.path, before, "30s")
		b.still() // by now it is under way
		if c.quiet != nil {
			c.quiet()
			b.still()
		}
		c.change()
		after := b.woken(before)
		s.note("%s: status %d, then %d, last contact %q", c.path, before.status, after.status, after.header.Get("X-Consul-Lastcontact"))
		// Who comes with the old index is behind, and does not wait.
		if late := s.get(query(c.path, "index", index(before), "wait", "30s")); late.took > 5*time.Second {
			s.Errorf("%s: %s waited %s though its index was old", s.base, c.path, late.took)
		}
	}
	for _, path := range []string{"/v1/config/mesh/none", "/v1/catalog/services", "/v1/agent/connect/ca/roots", "/v1/connect/intentions/match?by=destination&name=q"} {
		s.waits(path, func(r response) string { return query(path, "index", index(r), "wait", "1s") })
	}
	// An index from the future waits too, and comes back lower.
	s.waits("/v1/discovery-chain/api", func(response) string { return query("/v1/discovery-chain/api", "index", "99999999", "wait", "1s") })
}

// settled returns an answer that did not change for a while: what is registered
// reaches Consul's servers in several steps.
func (s *session) settled(path string) response {
	s.Helper()
	last := s.get(path)
	for {
		next := s.get(query(path, "index", index(last), "wait", "250ms"))
		if index(next) == index(last) {
			return last
		}
		last = next
	}
}

// waits makes sure that a query without news takes its wait time and at most
// the jitter on top, and returns what was there.
func (s *session) waits(path string, blocking func(response) string) {
	s.Helper()
	first := s.get(path)
	second := s.get(blocking(first))
	if second.took < time.Second || second.took > 3*time.Second {
		s.Errorf("%s: %s waited %s, want 1s and up to a sixteenth", s.base, path, second.took)
	}
	s.note("%s: waited; index kept: %v; status %d", path, index(first) == index(second), second.status)
	if first.body != second.body {
		s.Errorf("%s: %s: the answer changed: %s, then %s", s.base, path, first.body, second.body)
	}
}

func hashBlocking(s *session) {
	const path = "/v1/agent/service/api-sidecar-proxy"
	s.put(register, `{"Name":"api","Port":1,"Connect":{"SidecarService":{}}}`)
	hash := func(r response) string { return r.header.Get("X-Consul-Contenthash") }
	first := s.get(path)
	s.note("hash in body: %v", into[struct{ ContentHash string }](s, first).ContentHash == hash(first))
	s.waits(path, func(r response) string { return query(path, "hash", hash(r), "wait", "1s") })
	if wrong := s.get(query(path, "hash", "wrong", "wait", "30s")); wrong.took > 5*time.Second {
		s.Errorf("%s: another hash waited %s", s.base, wrong.took)
	}
	for _, change := range []func(){
		func() { s.put(register, `{"Name":"api","Port":2,"Connect":{"SidecarService":{}}}`) },
		func() { s.entry(`{"Kind":"service-defaults","Name":"api","MaxInboundConnections":7}`) },
		func() { s.put("/v1/agent/service/deregister/api", "") },
	} {
		before := s.get(path)
		done := make(chan response, 1)
		go func() {
			r, err := s.try(http.MethodGet, query(path, "hash", hash(before), "wait", "30s"), "")
			if err != nil {
				s.Errorf("%s: %v", s.base, err)
			}
			done <- r
		}()
		blocked{s, path, done}.still()
		change()
		after := <-done
		s.note("woken: status %d, another hash: %v", after.status, hash(after) != hash(before))
	}
}

func oddRequests(s *session) {
	s.noteAnswer(http.MethodGet, "/v1/nope", "")
	s.noteAnswer(http.MethodGet, "/v1/agent/service/register", "")
	s.noteAnswer(http.MethodPost, "/v1/agent/services", "")
	s.noteAnswer(http.MethodGet, "/v1/catalog/services?index=abc", "")
	s.noteAnswer(http.MethodGet, "/v1/catalog/services?index=1&wait=zz", "")
	s.noteAnswer(http.MethodGet, "/v1/health/connect/nope", "")
	s.noteAnswer(http.MethodGet, "/v1/config/service-resolver/none", "")
	self := s.get("/v1/agent/self")
	s.note("self: %+v", into[struct {
		Config struct {
			Datacenter, PrimaryDatacenter, NodeName, Version string
			Server                                           bool
		}
		DebugConfig struct{ ACLsEnabled bool }
		Member      struct{ Name, Addr string }
	}](s, self))
	s.note("default policy: %q %q", self.header.Get("X-Consul-Default-Acl-Policy"), s.get("/v1/nope").header.Get("Content-Type"))
	s.noteJSON("/v1/health/node/lab")
	s.note("leader: %v", len(s.get("/v1/status/leader").body) > 4)
}
