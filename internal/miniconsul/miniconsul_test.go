// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/internal/miniconsul"
)

func open(t *testing.T, opts miniconsul.Options) (*session, *mini) {
	t.Helper()
	m := startMini(t, opts)
	return &session{T: t, base: "http://" + m.addr}, m
}

func TestOnlyThisMachineCanReachTheServer(t *testing.T) {
	t.Parallel()
	s, err := miniconsul.New(miniconsul.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), l); err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("Run on every address: %v, want an error that says what to do", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the refused listener was left open")
	}
}

func TestAWebPageCannotReadAnswersUnderItsOwnName(t *testing.T) {
	t.Parallel()
	_, m := open(t, miniconsul.Options{})
	for host, want := range map[string]int{
		"evil.example": 403, "evil.example:8500": 403, "127.0.0.1.evil.example": 403, "10.0.0.1": 403,
		"localhost": 200, "LOCALHOST:8500": 200, "127.0.0.1:1": 200, "[::1]:8500": 200,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.addr+"/v1/agent/connect/ca/leaf/web", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want || (want != 200 && bytes.Contains(body, []byte("PRIVATE"))) {
			t.Errorf("Host %s: status %d, want %d", host, answer.StatusCode, want)
		}
	}
}

func TestRunEndsWithBlockedQueriesAndChecksUnderWay(t *testing.T) {
	t.Parallel()
	s, m := open(t, miniconsul.Options{})
	s.put(register, `{"Name":"a","Checks":[{"TCP":"127.0.0.1:1","Interval":"1s"},{"HTTP":"http://127.0.0.1:1","Interval":"1s"},{"TTL":"1s"}]}`)
	before := s.get("/v1/config/mesh")
	ended := make(chan error, 3)
	for range cap(ended) {
		go func() {
			_, err := s.try(http.MethodGet, query("/v1/config/mesh", "index", index(before), "wait", "5m"), "")
			ended <- err
		}()
	}
	time.Sleep(100 * time.Millisecond) // lets them begin; the test holds without it, too
	began := time.Now()
	if err := m.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Run took %s to end", took)
	}
	for range cap(ended) {
		if err := <-ended; err == nil {
			t.Error("a query that was cut off looks like an answer")
		}
	}
	if _, err := s.try(http.MethodGet, "/v1/config/mesh", ""); err == nil {
		t.Error("the listener is still open")
	}
}

func TestConnectionsBeyondConsulsLimitAreClosed(t *testing.T) {
	t.Parallel()
	s, m := open(t, miniconsul.Options{})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 200 {
		c, err := net.Dial("tcp", m.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// Accepted in order: when the last one is served, all are.
	last := conns[len(conns)-1]
	if _, err := fmt.Fprintf(last, "GET /v1/status/leader HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); err != nil {
		t.Fatalf("connection 200 is not served: %v", err)
	}
	if _, err := s.try(http.MethodGet, "/v1/status/leader", ""); err == nil {
		t.Error("connection 201 is served")
	}
	conns[0].Close()
	s.until200("/v1/status/leader")
}

func (s *session) until200(path string) {
	s.Helper()
	for range 200 {
		if r, err := s.try(http.MethodGet, path, ""); err == nil && r.status == http.StatusOK {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.Errorf("GET %s: never answered", path)
}

func TestWhatRequestsMakeGrowIsBounded(t *testing.T) {
	t.Parallel()
	s, _ := open(t, miniconsul.Options{})
	if r := s.call(http.MethodPut, "/v1/config", `{"Kind":"`+strings.Repeat("x", 1<<20)+`"}`); r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of a megabyte and more: status %d", r.status)
	}
	for i := range 256 {
		s.put(register, fmt.Sprintf(`{"Name":"s%d","Connect":{"SidecarService":{"Checks":[{"TTL":"1h"}]}}}`, i))
	}
	if r := s.call(http.MethodPut, register, `{"Name":"more","Connect":{"SidecarService":{}}}`); r.status != 400 || !strings.Contains(r.body, "[21000, 21255]") {
		t.Errorf("sidecar 257: status %d: %s", r.status, r.body)
	}
	if r := s.call(http.MethodPut, register, `{"Name":"more"}`); r.status != 400 || !strings.Contains(r.body, "full") {
		t.Errorf("service 513: status %d: %s", r.status, r.body)
	}
	s.put(register, `{"Name":"s0","Connect":{"SidecarService":{}}}`) // what is there can be changed
	for i := range 1024 {
		s.get(fmt.Sprintf("/v1/agent/connect/ca/leaf/l%d", i))
	}
	if r := s.get("/v1/agent/connect/ca/leaf/more"); r.status != 500 || !strings.Contains(r.body, "full") {
		t.Errorf("leaf 1025: status %d: %s", r.status, r.body)
	}
}

func TestWhatTheServerDoesNotDoIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := open(t, miniconsul.Options{})
	for _, c := range []struct{ path, body, says string }{
		{"/v1/config", `{"Kind":"service-router","Name":"a","Routes":[{"Destination":{"Namespace":"n"}}]}`, "one namespace"},
		{"/v1/config", `{"Kind":"service-splitter","Name":"a","Splits":[{"Weight":100,"Partition":"p"}]}`, "one namespace"},
		{"/v1/config", `{"Kind":"service-splitter","Name":"a","Splits":[{"Weight":101,"Service":"b"},{"Weight":-1,"Service":"c"}]}`, "0 to 100"},
		{"/v1/config", `{"Kind":"http-route","Name":"a"}`, "does not have this kind"},
		{"/v1/config?cas=1", `{"Kind":"mesh"}`, "leave cas out"},
		{"/v1/config", `{"Kind":"service-resolver","Name":"a","Redirect":{"Peer":"p"}}`, "no peers"},
		{"/v1/config", `{"Kind":"service-resolver","Name":"a","Subsets":{"s":{"Filter":"Node.Meta.x == y"}}}`, "understands only"},
		{"/v1/config", `{"Kind":"service-intentions","Name":"a","Sources":[{"Name":"b","Action":"allow","Peer":"p"}]}`, "no peers"},
		{"/v1/config", `{"Kind":"service-defaults","Name":"a","MutualTLSMode":"permissive"}`, "strict"},
		{"/v1/config", `{"Kind":"mesh","kind":"mesh"}`, "twice"},
		{register, `{"Name":"a","Check":{"GRPC":"127.0.0.1:1","Interval":"1s"}}`, "TCP, HTTP, TTL and alias"},
		{register, `{"Name":"a","Check":{"Args":["true"],"Interval":"1s"}}`, "TCP, HTTP, TTL and alias"},
		{register, `{"Name":"a","Kind":"mesh-gateway"}`, "sidecars only"},
		{register, `{"Name":"a","Namespace":"n"}`, "only the default"},
		{register, `{"Name":"a"} {}`, "after the value"},
		{"/v1/connect/ca/configuration", `{"Provider":"consul","ForceWithoutCrossSigning":true}`, "always signs"},
	} {
		if r := s.call(http.MethodPut, c.path, c.body); r.status < 400 || !strings.Contains(r.body, c.says) {
			t.Errorf("PUT %s %s: status %d: %s, want %q", c.path, c.body, r.status, r.body, c.says)
		}
	}
	if r := s.get("/v1/agent/services"); r.body != "{}" {
		t.Errorf("something was registered: %s", r.body)
	}
}

func TestTheDefaultIsToDeny(t *testing.T) {
	t.Parallel()
	for _, allow := range []bool{false, true} {
		s, m := open(t, miniconsul.Options{DefaultAllow: allow})
		policy := map[bool]string{false: "deny", true: "allow"}[allow]
		self := s.get("/v1/agent/self")
		said := into[struct {
			DebugConfig struct{ DefaultIntentionPolicy string }
		}](s, self).DebugConfig.DefaultIntentionPolicy
		if header := self.header.Get("X-Consul-Default-ACL-Policy"); header != policy || said != policy {
			t.Errorf("policy %q in the header and %q in self, want %q", header, said, policy)
		}
		check := func() bool {
			return into[struct{ Allowed bool }](s, s.get(query("/v1/connect/intentions/check", "source", "web", "destination", "api"))).Allowed
		}
		if check() != allow {
			t.Errorf("default %q: an intention-less connection is allowed: %v", policy, check())
		}
		opposite := map[bool]string{false: "allow", true: "deny"}[allow]
		if err := m.SetIntention("web", "api", opposite); err != nil {
			t.Fatal(err)
		}
		if check() == allow {
			t.Errorf("default %q: the intention does not decide", policy)
		}
		if err := m.DeleteIntention("web", "api"); err != nil {
			t.Fatal(err)
		}
		if check() != allow {
			t.Errorf("default %q: the deleted intention decides", policy)
		}
	}
}

func TestGoCallsWakeWatches(t *testing.T) {
	t.Parallel()
	s, m := open(t, miniconsul.Options{TrustDomain: "11111111-2222-3333-4444-555555555555.consul"})
	match := query("/v1/connect/intentions/match", "by", "destination", "name", "api")
	for _, c := range []struct {
		path string
		call func() error
	}{
		{match, func() error { return m.SetIntention("*", "api", "allow") }},
		{match, func() error { return m.DeleteIntention("*", "api") }},
		{"/v1/agent/connect/ca/roots", m.RotateCA},
		{"/v1/agent/connect/ca/leaf/api", m.RotateCA},
	} {
		before := s.get(c.path)
		b := s.ask(c.path, before, "1m")
		if err := c.call(); err != nil {
			t.Fatal(err)
		}
		b.woken(before)
	}
	r := into[roots](s, s.get("/v1/agent/connect/ca/roots"))
	if len(r.Roots) != 3 || r.TrustDomain != m.TrustDomain() || !strings.HasPrefix(m.TrustDomain(), "11111111-") {
		t.Errorf("%d roots of %s", len(r.Roots), r.TrustDomain)
	}
	for _, action := range []string{"", "maybe", "ALLOW"} {
		if err := m.SetIntention("web", "api", action); err == nil {
			t.Errorf("action %q was accepted", action)
		}
	}
	if err := m.SetIntention("we*", "api", "allow"); err == nil {
		t.Error("a partial wildcard was accepted")
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, opts := range []miniconsul.Options{
		{Datacenter: "DC 1"}, {NodeName: "a b"}, {TrustDomain: "example.com"}, {LeafTTL: time.Millisecond},
	} {
		if _, err := miniconsul.New(opts); err == nil {
			t.Errorf("%+v was accepted", opts)
		}
	}
}

func TestNoKeyIsLoggedOrShownWithTheSettings(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s, m := open(t, miniconsul.Options{Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &out})})
	rotation(&session{T: t, base: s.base})
	s.get("/v1/agent/connect/ca/leaf/api")
	if r := s.get("/v1/connect/ca/configuration"); strings.Contains(r.body, "PRIVATE") || !strings.Contains(r.body, "72h") {
		t.Errorf("the CA's settings: %s", r.body)
	}
	if r := s.call(http.MethodPut, "/v1/connect/ca/configuration", `{"Provider":"consul","Config":{"PrivateKey":"s3cret","RootCert":"x"}}`); r.status < 400 || strings.Contains(r.body, "s3cret") {
		t.Errorf("status %d: %s", r.status, r.body)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"PRIVATE", "s3cret", "CERTIFICATE"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the log shows %q: %s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), "serving") {
		t.Errorf("nothing was logged: %q", out.String())
	}
}

func TestConsulsOwnClientUnderstandsTheServer(t *testing.T) {
	t.Parallel()
	_, m := open(t, miniconsul.Options{})
	config := api.DefaultConfig()
	config.Address = m.addr
	config.Transport.DisableKeepAlives = true
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	err = client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		Name: "api", Port: 9090, Meta: map[string]string{"version": "1"},
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Checks: api.AgentServiceChecks{{CheckID: "ttl", TTL: "30s"}},
			Proxy:  &api.AgentServiceConnectProxyConfig{Upstreams: []api.Upstream{{DestinationName: "db", LocalBindPort: 5000}}},
		}},
	}, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Agent().UpdateTTL("ttl", "fine", api.HealthPassing); err != nil {
		t.Fatal(err)
	}
	found, meta, err := client.Health().Connect("api", "", true, nil)
	if err != nil || len(found) != 1 || found[0].Service.Port != 21000 || meta.LastIndex == 0 || !meta.KnownLeader {
		t.Fatalf("Health().Connect: %+v %+v %v", found, meta, err)
	}
	for _, entry := range []api.ConfigEntry{
		&api.ServiceResolverConfigEntry{
			Kind: api.ServiceResolver, Name: "api", DefaultSubset: "v1", ConnectTimeout: time.Second,
			Subsets: map[string]api.ServiceResolverSubset{"v1": {Filter: `Service.Meta.version == "1"`}},
		},
		&api.ServiceConfigEntry{Kind: api.ServiceDefaults, Name: "api", Protocol: "tcp", MaxInboundConnections: 3},
		&api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"x": 1}},
		&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: "api", Sources: []*api.SourceIntention{{Name: "web", Action: api.IntentionActionAllow}}},
		&api.MeshConfigEntry{TLS: &api.MeshTLSConfig{Incoming: &api.MeshDirectionalTLSConfig{TLSMinVersion: "TLSv1_3"}}},
	} {
		if ok, _, err := client.ConfigEntries().Set(entry, nil); err != nil || !ok {
			t.Errorf("%s: %v %v", entry.GetKind(), ok, err)
		}
		back, _, err := client.ConfigEntries().Get(entry.GetKind(), entry.GetName(), nil)
		if err != nil || back.GetKind() != entry.GetKind() || back.GetModifyIndex() == 0 {
			t.Errorf("%s: %+v %v", entry.GetKind(), back, err)
		}
	}
	if _, err := client.Connect().IntentionUpsert(&api.Intention{SourceName: "a", DestinationName: "api", Action: api.IntentionActionDeny}, nil); err != nil {
		t.Error(err)
	}
	chain, _, err := client.DiscoveryChain().Get("api", nil, nil)
	if err != nil || chain.Chain.StartNode != "resolver:v1.api.default.default.dc1" {
		t.Errorf("chain: %+v %v", chain, err)
	}
	leaf, _, err := client.Agent().ConnectCALeaf("api", (&api.QueryOptions{}).WithContext(context.Background()))
	if err != nil || !strings.HasSuffix(leaf.ServiceURI, "/ns/default/dc/dc1/svc/api") {
		t.Errorf("leaf: %v", err)
	}
}
