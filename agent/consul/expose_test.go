// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestRecordedHTTPRegistrationIsReadWhole(t *testing.T) {
	got, err := convertRegistration(recorded[wireService](t, "registration-http.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	upstream := connect.Upstream{Namespace: "default", Partition: "default", BindAddress: "127.0.0.1", Protocol: connect.HTTP}
	api, adm := upstream, upstream
	api.ID, api.Name, api.BindPort, api.Balance = "api", "api", 9191, "peak_ewma"
	api.MaxConnections, api.MaxPending, api.MaxRequests = -1, 3, -1
	api.PassiveHealth = connect.PassiveHealth{MaxFailures: 2, Interval: 5 * time.Second}
	adm.ID, adm.Name, adm.BindPort, adm.Balance = "adm", "adm", 9192, "round_robin"
	adm.MaxConnections, adm.MaxPending, adm.MaxRequests = 7, 8, 0
	adm.PassiveHealth = connect.PassiveHealth{MaxFailures: 3, Interval: 22 * time.Second}
	want := Registration{
		Service: connect.Service{
			ID: "web-1", ProxyID: "web-1-sidecar-proxy", Name: "web", Namespace: "default", Partition: "default", Datacenter: "dc1",
			Protocol: connect.HTTP, BindAddress: "0.0.0.0", BindPort: 21000, LocalAddress: "127.0.0.1", LocalPort: 8080,
			LocalConnectTimeout: 77 * time.Millisecond, LocalRequestTimeout: 1234 * time.Millisecond, LocalIdleTimeout: 5 * time.Second,
			MaxInboundConnections: 5, MaxRequestHeaders: 96 << 10,
			Expose: []connect.ExposedPath{
				{ListenerPort: 21555, Path: "/metrics", LocalPathPort: 8080, Protocol: connect.HTTP2},
				{ListenerPort: 21556, Path: "/healthz", LocalPathPort: 8080, Protocol: connect.HTTP},
			},
		},
		Upstreams:    []connect.Upstream{adm, api},
		ExposeChecks: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}
}

func TestHTTPSettingsAreReadOrNoted(t *testing.T) {
	for _, tt := range []struct {
		config        string
		request, idle time.Duration
		headers       int
		balance       string
		note          string
	}{
		{config: `{}`},
		{config: `{"local_request_timeout_ms":0,"local_idle_timeout_ms":0,"max_request_headers_kb":0}`, request: -1, idle: -1},
		{config: `{"LocalRequestTimeoutMs":"7","local_idle_timeout_ms":8}`, request: 7 * time.Millisecond, idle: 8 * time.Millisecond},
		{config: `{"local_request_timeout_ms":-1}`, note: "local_request_timeout_ms is not a whole number"},
		{config: `{"max_request_headers_kb":9000}`, headers: 8 << 20, note: "at most 8192 is done"},
		{config: `{"outrider_lb":"peak_ewma"}`, balance: "peak_ewma"},
		{config: `{"outrider_lb":"fastest"}`, note: `proxy config: outrider_lb is "fastest"`},
		{config: `{"outrider_lb":1}`, note: "outrider_lb is not a string"},
	} {
		r, err := convertRegistration(sidecar(t, "", `,"Config":`+tt.config+`,"Upstreams":[{"DestinationName":"a","LocalBindPort":1}]`), "")
		if err != nil {
			t.Fatal(err)
		}
		s := r.Service
		if s.LocalRequestTimeout != tt.request || s.LocalIdleTimeout != tt.idle || s.MaxRequestHeaders != tt.headers || r.Upstreams[0].Balance != tt.balance {
			t.Errorf("%s: %v, %v, %d, %q", tt.config, s.LocalRequestTimeout, s.LocalIdleTimeout, s.MaxRequestHeaders, r.Upstreams[0].Balance)
		}
		notes := strings.Join(r.Warnings, "; ")
		if !strings.Contains(notes, tt.note) || (tt.note == "") != (notes == "") {
			t.Errorf("%s: notes %q, want %q", tt.config, notes, tt.note)
		}
	}
}

func TestPathsThatAreNotClearStayBehindTLS(t *testing.T) {
	for _, tt := range []struct{ path, warning string }{
		{`{"ListenerPort":1,"Path":"/x","LocalPathPort":2,"Protocol":"HTTP2"}`, ""},
		{`{"ListenerPort":1,"Path":"x","LocalPathPort":2}`, "it is not a path"},
		{`{"ListenerPort":1,"Path":"","LocalPathPort":2}`, "it is not a path"},
		{`{"ListenerPort":1,"Path":"/x?y","LocalPathPort":2}`, "it is not a path"},
		{`{"ListenerPort":1,"Path":"/x\ny","LocalPathPort":2}`, "it is not a path"},
		{`{"Path":"/x","LocalPathPort":2}`, "listener port 0"},
		{`{"ListenerPort":70000,"Path":"/x","LocalPathPort":2}`, "listener port 70000"},
		{`{"ListenerPort":21000,"Path":"/x","LocalPathPort":2}`, "that of the inbound listener"},
		{`{"ListenerPort":1,"Path":"/x","LocalPathPort":-2}`, "local path port -2"},
		{`{"ListenerPort":1,"Path":"/x","LocalPathPort":2,"Protocol":"grpc"}`, "neither http nor http2"},
		{`{"ListenerPort":9,"Path":"/good"}`, "it is there twice"},
	} {
		r, err := convertRegistration(sidecar(t, "", `,"Expose":{"Paths":[{"ListenerPort":9,"Path":"/good"},`+tt.path+`]}`), "")
		if err != nil {
			t.Fatal(err)
		}
		warnings := strings.Join(r.Warnings, "; ")
		if !strings.Contains(warnings, tt.warning) || (tt.warning == "") != (warnings == "") {
			t.Errorf("%s: warnings %q, want %q", tt.path, warnings, tt.warning)
		}
		if exposed := len(r.Service.Expose); (exposed == 2) != (tt.warning == "") || r.ExposeChecks {
			t.Errorf("%s: %+v", tt.path, r.Service.Expose)
		}
	}
	many := strings.Repeat(`{"ListenerPort":8,"Path":"/x"},`, 2)
	for port := range maxExposed {
		many += strings.ReplaceAll(`{"ListenerPort":PORT,"Path":"/x"},`, "PORT", number64(uint64(port+100)))
	}
	r, err := convertRegistration(sidecar(t, "", `,"Expose":{"Paths":[`+strings.TrimSuffix(many, ",")+`]}`), "")
	if err != nil || len(r.Service.Expose) != maxExposed || len(r.Warnings) != 2 {
		t.Errorf("%d paths, warnings %q, %v", len(r.Service.Expose), r.Warnings, err)
	}
}

func TestMovedChecksAreServedForTheAgentOnly(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/agent/checks", says(testdata(t, "checks.json")))
	a.answer("/v1/agent/self", says(testdata(t, "self.json")))
	c := a.client(t, nil)
	ports, err := c.ExposedChecks(t.Context(), "web-1")
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"h1": 21500, "service:web-1:4": 21501, "service:web-1:5": 21502, "g1": 21503, "service:web-1:6": 21504}; !cmp.Equal(want, ports) {
		t.Errorf("ports (-want +got):\n%s", cmp.Diff(want, ports))
	}
	from, err := c.AdvertiseAddress(t.Context())
	if err != nil || from != "127.0.0.1" {
		t.Errorf("address %q, %v", from, err)
	}
	// The checks that the recorded agent was given.
	d := Definition{ID: "web-1", Name: "web", Checks: []Check{
		{ID: "h1", HTTP: "http://127.0.0.1:8080/healthz?x=1"}, {ID: "g1", GRPC: "127.0.0.1:8081/web"}, {Name: "tcp", TCP: "127.0.0.1:8080"},
		{HTTP: "http://localhost:8082"}, {HTTP: "https://localhost:8443/x"}, {GRPC: "127.0.0.1:8084", GRPCUseTLS: true},
	}}
	allow := []string{from}
	want := []connect.ExposedPath{
		{ListenerPort: 21500, Path: "/healthz", LocalPathPort: 8080, Protocol: connect.HTTP, LocalOnly: true, AllowFrom: allow},
		{ListenerPort: 21503, Path: "/grpc.health.v1.Health/Check", LocalPathPort: 8081, Protocol: connect.HTTP2, LocalOnly: true, AllowFrom: allow},
		{ListenerPort: 21501, Path: "/", LocalPathPort: 8082, Protocol: connect.HTTP, LocalOnly: true, AllowFrom: allow},
	}
	got, warnings := d.ExposedPaths(ports, allow)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if text := strings.Join(warnings, "; "); len(warnings) != 2 || !strings.Contains(text, `"service:web-1:5" cannot be served and will fail: it uses TLS`) || !strings.Contains(text, `"service:web-1:6"`) {
		t.Errorf("warnings %q", warnings)
	}
	if got, warnings := d.ExposedPaths(nil, nil); got != nil || warnings != nil {
		t.Errorf("without ports: %+v, %q", got, warnings)
	}
}

func TestTargetsOfChecks(t *testing.T) {
	for _, tt := range []struct {
		check  Check
		path   string
		port   int
		reason string
	}{
		{Check{HTTP: "http://localhost/a%2Fb"}, "/a%2Fb", 80, ""},
		{Check{HTTP: "http://[::1]:8080/x#y"}, "/x", 8080, ""},
		{Check{HTTP: "http://localhost:0/x"}, "", 0, "local path port 0"},
		{Check{HTTP: "ftp://localhost/x"}, "", 0, `scheme "ftp"`},
		{Check{HTTP: "http://local host/"}, "", 0, "URL cannot be read"},
		{Check{GRPC: "localhost"}, "", 0, "not the address of a gRPC server"},
		{Check{GRPC: "localhost:http"}, "", 0, "not the address of a gRPC server"},
		{Check{GRPC: "[::1]:99999"}, "", 0, "local path port 99999"},
		{Check{TCP: "localhost:80"}, "", 0, "neither an HTTP nor a gRPC check"},
	} {
		d := Definition{Name: "web", Checks: []Check{tt.check}}
		paths, warnings := d.ExposedPaths(map[string]int{"service:web": 21500}, nil)
		if tt.reason != "" {
			if len(paths) != 0 || len(warnings) != 1 || !strings.Contains(warnings[0], tt.reason) {
				t.Errorf("%+v: %+v, %q, want %q", tt.check, paths, warnings, tt.reason)
			}
			continue
		}
		if len(paths) != 1 || len(warnings) != 0 || paths[0].Path != tt.path || paths[0].LocalPathPort != tt.port || !paths[0].LocalOnly {
			t.Errorf("%+v: %+v, %q", tt.check, paths, warnings)
		}
	}
}

func TestTheAdvertiseAddressIsFoundWithoutAgentRead(t *testing.T) {
	const checks, node = "/v1/agent/checks", "/v1/catalog/node/n1"
	for _, tt := range []struct {
		name               string
		self, checks, node http.HandlerFunc
		want, fails        string
	}{
		{name: "agent:read", self: says(`{"Member":{"Addr":"::ffff:192.0.2.1"}}`), want: "192.0.2.1"},
		{name: "node:read", self: fails(403, "no"), checks: says(`{"a":{"Node":"n1"}}`), node: says(`{"Node":{"Address":"192.0.2.2"}}`), want: "192.0.2.2"},
		{name: "neither", self: fails(403, "no"), checks: says(`{"a":{"Node":"n1"}}`), node: fails(403, "no"), fails: `agent:read or node:read on "n1"`},
		{name: "no check", self: fails(403, "no"), checks: says(`{}`), fails: "agent:read"},
		{name: "a node that leaves its path", self: fails(403, "no"), checks: says(`{"a":{"Node":"../x"}}`), fails: "node name"},
		{name: "no address", self: says(`{}`), fails: "is no IP address"},
		{name: "broken", self: fails(500, "oops"), fails: "oops"},
	} {
		a := newAgent(t)
		a.answer("/v1/agent/self", tt.self)
		a.answer(checks, tt.checks)
		a.answer(node, tt.node)
		got, err := a.client(t, nil).AdvertiseAddress(t.Context())
		if tt.fails != "" {
			wantError(t, err, tt.fails)
		} else if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	a := newAgent(t)
	a.answer(checks, says(`{"x":{"ServiceID":"web","ExposedPort":70000}}`))
	_, err := a.client(t, nil).ExposedChecks(t.Context(), "web")
	wantError(t, err, `check "x": 70000 is not a port`)
}
