// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
)

// A catalog is an agent that registers services and expands their sidecars as
// Consul does, and counts what is written.
type catalog struct {
	mu          sync.Mutex
	services    map[string]map[string]any
	maintenance map[string]string
	writes      []string
	refuse      bool
}

func (c *catalog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method == http.MethodPut {
		if c.refuse {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		c.write(w, r)
		return
	}
	s, ok := c.services[strings.TrimPrefix(r.URL.Path, "/v1/agent/service/")]
	if !ok {
		http.Error(w, "unknown service ID", http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(s)
}

func (c *catalog) write(w http.ResponseWriter, r *http.Request) {
	action := strings.TrimPrefix(r.URL.Path, "/v1/agent/service/")
	if id, ok := strings.CutPrefix(action, "maintenance/"); ok {
		c.writes = append(c.writes, fmt.Sprintf("%s enable=%s", action, r.URL.Query().Get("enable")))
		delete(c.maintenance, id)
		if r.URL.Query().Get("enable") == "true" {
			c.maintenance[id] = r.URL.Query().Get("reason")
		}
		return
	}
	if id, ok := strings.CutPrefix(action, "deregister/"); ok {
		c.writes = append(c.writes, action)
		if c.services[id] == nil {
			http.Error(w, "Unknown service ID", http.StatusNotFound)
		}
		delete(c.services, id)
		delete(c.services, id+"-sidecar-proxy")
		return
	}
	var d api.AgentServiceRegistration
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil || action != "register" {
		http.Error(w, fmt.Sprint(action, err), http.StatusBadRequest)
		return
	}
	c.writes = append(c.writes, "register "+d.ID+" replace="+fmt.Sprint(r.URL.Query().Has("replace-existing-checks")))
	c.register(d)
}

func (c *catalog) register(d api.AgentServiceRegistration) {
	side := d.Connect.SidecarService
	port := side.Port
	if port == 0 {
		port = 21000
	}
	meta := side.Meta
	if meta == nil {
		meta = d.Meta
	}
	c.services[d.ID] = map[string]any{
		"ID": d.ID, "Service": d.Name, "Address": d.Address, "Port": d.Port, "Tags": d.Tags, "Meta": d.Meta, "Datacenter": "dc1",
		"Weights":         map[string]int{"Passing": 1, "Warning": 1},
		"TaggedAddresses": map[string]any{"lan_ipv4": map[string]any{"Address": d.Address, "Port": d.Port}},
	}
	id := d.ID + "-sidecar-proxy"
	// Replacing checks takes the one for maintenance away.
	delete(c.maintenance, id)
	c.services[id] = map[string]any{
		"ID": id, "Kind": "connect-proxy", "Service": d.Name + "-sidecar-proxy", "Port": port, "Meta": meta, "Datacenter": "dc1",
		"Proxy": map[string]any{
			"DestinationServiceName": d.Name, "DestinationServiceID": d.ID, "LocalServiceAddress": "127.0.0.1", "LocalServicePort": d.Port,
			"Upstreams": side.Proxy.Upstreams, "Config": map[string]any{"protocol": "http", "from": "central config"},
		},
	}
}

func (c *catalog) written() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.writes...)
}

func newCatalog(t *testing.T) (*catalog, *Client) {
	t.Helper()
	c := &catalog{services: make(map[string]map[string]any), maintenance: make(map[string]string)}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	a := &agent{server: server}
	return c, a.client(t, nil)
}

func definition(name string, port int) Definition {
	return Definition{
		Name: name, Port: port, Tags: []string{"b", "a"}, Meta: map[string]string{"version": "1"},
		Checks: []Check{{Name: "up", HTTP: "http://127.0.0.1/health", Interval: 5 * time.Second}},
		Sidecar: Sidecar{Proxy: Proxy{
			Config:    map[string]any{"max_inbound_connections": 5},
			Upstreams: []Upstream{{DestinationName: "api", LocalBindPort: 9191, Config: map[string]any{"connect_timeout_ms": 10}}},
		}},
	}
}

func TestAnEqualRegistrationIsWrittenOnce(t *testing.T) {
	c, client := newCatalog(t)
	for range 3 {
		// A new registrar each time: the next process must not write either.
		r := client.NewRegistrar([]Definition{definition("web", 80)}, nil)
		if err := r.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"register web replace=true"}, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestRunRegistersWhatIsMissingOrDifferentAndSaysWhy(t *testing.T) {
	c, client := newCatalog(t)
	var log diary
	r := client.NewRegistrar([]Definition{definition("web", 80), definition("db", 90)}, log.logger())
	background(t, r.Run)
	eventually(t, "both are registered", func() bool { return len(c.written()) == 2 })

	changed := definition("web", 81)
	r.Set([]Definition{changed})
	eventually(t, "one changed, one gone", func() bool { return len(c.written()) == 4 })
	want := []string{"register web replace=true", "register db replace=true", "deregister/db", "register web replace=true"}
	if diff := cmp.Diff(want, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}

	// What was taken out of the opaque config cannot be seen in the merged
	// registration; the fingerprint shows it.
	changed.Sidecar.Proxy.Config = nil
	r.Set([]Definition{changed})
	eventually(t, "it is written", func() bool { return len(c.written()) == 5 })
	for _, line := range []string{`service=web reason=missing`, `service=web reason="port differs, definition differs`, `deregistered: service=db`, `reason="definition differs"`} {
		eventually(t, "the log has "+line, func() bool { return strings.Contains(log.String(), line) })
	}
}

func TestRunTriesAgainAfterAnErrorAndNamesThePermission(t *testing.T) {
	c, client := newCatalog(t)
	c.refuse = true
	var log diary
	r := client.NewRegistrar([]Definition{definition("web", 80)}, log.logger())
	background(t, r.Run)
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "trying again") })
	for _, part := range []string{`register service`, "403", `service:write on \"web\" and \"web-sidecar-proxy\"`, "token may be missing"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %q:\n%s", part, log.String())
		}
	}
	c.mu.Lock()
	c.refuse = false
	c.mu.Unlock()
	eventually(t, "it is registered", func() bool { return len(c.written()) == 1 })
	eventually(t, "a line that says so", func() bool { return strings.Contains(log.String(), "registration is up to date again") })
}

func TestMaintenanceOutlivesARegistration(t *testing.T) {
	c, client := newCatalog(t)
	r := client.NewRegistrar([]Definition{definition("web", 80)}, nil)
	if err := r.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Maintenance(t.Context(), true, "draining"); err != nil {
		t.Fatal(err)
	}
	r.Set([]Definition{definition("web", 81)})
	if err := r.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.maintenance["web-sidecar-proxy"]; got != "draining" {
		t.Errorf("maintenance reason %q after a new registration, want it kept", got)
	}
	if err := r.Maintenance(t.Context(), false, ""); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"register web replace=true", "maintenance/web-sidecar-proxy enable=true",
		"register web replace=true", "maintenance/web-sidecar-proxy enable=true",
		"maintenance/web-sidecar-proxy enable=false",
	}
	if diff := cmp.Diff(want, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestDeregisterRemovesAllAndForgivesWhatIsGone(t *testing.T) {
	c, client := newCatalog(t)
	r := client.NewRegistrar([]Definition{definition("web", 80), definition("gone", 90)}, nil)
	if err := r.apply(t.Context(), r.definitions[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.Deregister(t.Context()); err != nil {
		t.Errorf("deregister: %v", err)
	}
	if len(c.services) != 0 {
		t.Errorf("%d services remain", len(c.services))
	}
	c.refuse = true
	wantError(t, r.Deregister(t.Context()), `"web"`, `"gone"`, "service:write")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Deregister(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestOneServiceThatCannotBeWrittenDoesNotStopTheOthers(t *testing.T) {
	c, client := newCatalog(t)
	bad := definition("bad", 1)
	bad.Sidecar.Proxy.Config = map[string]any{"f": func() {}}
	r := client.NewRegistrar([]Definition{bad, definition("web", 80)}, nil)
	wantError(t, r.reconcile(t.Context()), `service "bad"`, "cannot be written as JSON")
	if diff := cmp.Diff([]string{"register web replace=true"}, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

// agreement is a definition and what Consul shows of it when nothing differs.
func agreement(fingerprint string) (Definition, *wireService, *wireService) {
	d := Definition{
		ID: "web-1", Name: "web", Address: "192.0.2.1", Port: 80, SocketPath: "/s", Tags: []string{"a", "b"}, Meta: map[string]string{"k": "v"},
		Weights: &Weights{Passing: 2, Warning: 1}, TaggedAddresses: map[string]TaggedAddress{"wan": {Address: "w", Port: 1}},
		Sidecar: Sidecar{Address: "192.0.2.2", Port: 21000, Tags: []string{"s"}, Meta: map[string]string{"m": "n"}, Proxy: Proxy{
			LocalServiceAddress: "127.0.0.1", LocalServicePort: 80, LocalServiceSocketPath: "/s",
			Upstreams: []Upstream{{DestinationName: "api", LocalBindPort: 1}, {DestinationName: "db", Datacenter: "dc2", LocalBindPort: 2}},
		}},
	}
	service := &wireService{
		ID: "web-1", Service: "web", Address: "192.0.2.1", Port: 80, SocketPath: "/s", Tags: []string{"b", "a"},
		Meta: map[string]string{"k": "v", fingerprintKey: fingerprint}, Weights: Weights{Passing: 2, Warning: 1},
		TaggedAddresses: map[string]wireAddress{"wan": {Address: "w", Port: 1}, "consul-virtual": {Address: "240.0.0.1"}},
	}
	sidecar := &wireService{
		Kind: "connect-proxy", Address: "192.0.2.2", Port: 21000, Tags: []string{"s"}, Meta: map[string]string{"m": "n"},
		Proxy: &wireProxy{
			DestinationServiceName: "web", DestinationServiceID: "web-1", LocalServiceAddress: "127.0.0.1", LocalServicePort: 80, LocalServiceSocketPath: "/s",
			Config: map[string]any{"protocol": "http"},
			Upstreams: []wireUpstream{
				{DestinationName: "*"},
				{DestinationType: "service", DestinationName: "db", Datacenter: "dc2", LocalBindPort: 2, Config: map[string]any{"protocol": "tcp"}},
				{DestinationType: "service", DestinationName: "api", LocalBindPort: 1},
			},
		},
	}
	return d, service, sidecar
}

func TestDiffNamesEachReason(t *testing.T) {
	const hash = "f00d"
	for _, tt := range []struct {
		edit func(service, sidecar *wireService)
		want []string
	}{
		{func(_, _ *wireService) {}, nil},
		{func(s, _ *wireService) { s.Service = "x" }, []string{"name differs"}},
		{func(s, _ *wireService) { s.Address = "x" }, []string{"address differs"}},
		{func(s, _ *wireService) { s.Port = 9 }, []string{"port differs"}},
		{func(s, _ *wireService) { s.SocketPath = "" }, []string{"socket path differs"}},
		{func(s, _ *wireService) { s.EnableTagOverride = true }, []string{"enable_tag_override differs"}},
		{func(s, _ *wireService) { s.Tags = []string{"a"} }, []string{"tags differ"}},
		{func(s, _ *wireService) { s.Weights.Warning = 2 }, []string{"weights differ"}},
		{func(s, _ *wireService) { s.TaggedAddresses = nil }, []string{"tagged addresses differ"}},
		{func(s, _ *wireService) { s.Meta["k"] = "w" }, []string{"meta differs"}},
		{func(s, _ *wireService) { s.Meta[fingerprintKey] = "beef" }, []string{"definition differs"}},
		{func(s, _ *wireService) { s.Meta = nil; s.Port = 9 }, []string{"port differs", "meta differs", "definition differs"}},
		{func(_, p *wireService) { p.Proxy = nil }, []string{"sidecar missing"}},
		{func(_, p *wireService) { p.Kind = "" }, []string{"sidecar kind differs"}},
		{func(_, p *wireService) { p.Proxy.DestinationServiceID = "web-2" }, []string{"sidecar destination differs"}},
		{func(_, p *wireService) { p.Address = "" }, []string{"sidecar address differs"}},
		{func(_, p *wireService) { p.Port = 1 }, []string{"sidecar port differs"}},
		{func(_, p *wireService) { p.Tags = nil }, []string{"sidecar tags differ"}},
		{func(_, p *wireService) { p.Meta = nil }, []string{"sidecar meta differs"}},
		{func(_, p *wireService) { p.Proxy.LocalServiceAddress = "" }, []string{"sidecar local service address differs"}},
		{func(_, p *wireService) { p.Proxy.LocalServicePort = 1 }, []string{"sidecar local service port differs"}},
		{func(_, p *wireService) { p.Proxy.LocalServiceSocketPath = "" }, []string{"sidecar local service socket differs"}},
		{func(_, p *wireService) { p.Proxy.Upstreams = p.Proxy.Upstreams[:2] }, []string{"sidecar upstreams differ"}},
		{func(_, p *wireService) { p.Proxy.Upstreams[1].LocalBindPort = 3 }, []string{"sidecar upstreams differ"}},
	} {
		d, service, sidecar := agreement(hash)
		tt.edit(service, sidecar)
		if got := diff(d, hash, service, sidecar); !cmp.Equal(tt.want, got) {
			t.Errorf("reasons %q, want %q", got, tt.want)
		}
	}
	d, _, _ := agreement(hash)
	if got := diff(d, hash, nil, nil); !cmp.Equal([]string{"missing"}, got) {
		t.Errorf("reasons %q, want missing", got)
	}
}

func TestTheFingerprintFollowsTheDefinition(t *testing.T) {
	hash := func(d Definition) string {
		r, err := d.registration()
		if err != nil {
			t.Fatal(err)
		}
		return r.Meta[fingerprintKey]
	}
	one := definition("web", 80)
	if hash(one) != hash(definition("web", 80)) {
		t.Error("equal definitions have different fingerprints")
	}
	two := definition("web", 80)
	two.Checks[0].Interval = time.Second
	if hash(one) == hash(two) {
		t.Error("a changed check does not change the fingerprint")
	}
	if one.Meta[fingerprintKey] != "" {
		t.Error("the definition's own meta was written to")
	}
}

func TestADefinitionIsWrittenInConsulsWords(t *testing.T) {
	d := definition("web", 80)
	d.ID, d.SocketPath, d.Weights = "web-1", "/s", &Weights{Passing: 3, Warning: 1}
	d.TaggedAddresses = map[string]TaggedAddress{"wan": {Address: "w", Port: 1}}
	d.Checks = append(d.Checks, Check{ID: "ttl", TTL: 30 * time.Second, DeregisterCriticalServiceAfter: time.Hour})
	d.Sidecar.Proxy.MeshGateway, d.Sidecar.Proxy.Mode = "local", "direct"
	d.Sidecar.Proxy.ExposePaths = []ExposePath{{ListenerPort: 1, Path: "/p", LocalPathPort: 2, Protocol: "http"}}
	r, err := d.registration()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"ID":"web-1"`, `"SocketPath":"/s"`, `"Weights":{"Passing":3,"Warning":1}`, `"wan":{"Address":"w","Port":1}`,
		`"HTTP":"http://127.0.0.1/health"`, `"Interval":"5s"`, `"CheckID":"ttl"`, `"TTL":"30s"`, `"DeregisterCriticalServiceAfter":"1h0m0s"`,
		`"SidecarService":{`, `"MeshGateway":{"Mode":"local"}`, `"Mode":"direct"`, `"ListenerPort":1`, `"DestinationName":"api"`, `"LocalBindPort":9191`, `"connect_timeout_ms":10`,
	} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s lacks %s", text, part)
		}
	}
}

func TestWaitEndsWithTheRegistrationOrItsContext(t *testing.T) {
	_, client := newCatalog(t)
	r := client.NewRegistrar([]Definition{definition("web", 80)}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx, "web"); !errors.Is(err, context.Canceled) {
		t.Errorf("before anything is registered: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	running, stop := context.WithCancel(t.Context())
	go func() { ended <- r.Run(running) }()
	if err := r.Wait(ctx, "web"); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
