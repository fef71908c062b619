// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
)

const register = "/v1/agent/service/register"

func registration(s *session) {
	s.put(register, `{"Name":"api","ID":"api-1","Port":9090,"Tags":["v1"],"Meta":{"version":"1"},
		"Check":{"TCP":"127.0.0.1:1","Interval":"5s","Timeout":"2s","Notes":"n"},
		"Connect":{"SidecarService":{"Proxy":{"Upstreams":[{"DestinationName":"db","LocalBindPort":5000}],"Config":{"a":1}}}}}`)
	s.put(register, `{"Name":"web","Address":"10.0.0.9","Port":9091,"Weights":{"Passing":3,"Warning":2},"EnableTagOverride":true,
		"Checks":[{"TTL":"1h"},{"CheckID":"own","Name":"mine","TTL":"1h","Status":"passing"}],
		"Connect":{"SidecarService":{"Name":"other","Port":20000,"Address":"127.0.0.1","Tags":["x"],"Meta":{"k":"v"},
		"Checks":[{"Name":"one","TTL":"1h"},{"AliasService":"web"}],
		"Proxy":{"LocalServicePort":7,"Mode":"direct","MeshGateway":{"Mode":"local"},"Expose":{"Paths":[{"Path":"/h","LocalPathPort":1,"ListenerPort":2}]}}}}}`)
	s.put(register, `{"name":"snake","tagged_addresses":{"lan":{"address":"1.2.3.4","port":5}},"enable_tag_override":true,
		"check":{"ttl":"1h","deregister_critical_service_after":"1m"},
		"connect":{"sidecar_service":{"proxy":{"upstreams":[{"destination_name":"q","local_bind_port":7,"config":{"snake_key":1}}]}}}}`)
	s.put(register, `{"Name":"native","Port":5,"Connect":{"Native":true}}`)
	s.put(register, `{"Name":"socket","SocketPath":"/run/app.sock","Connect":{"SidecarService":{}}}`)
	s.put(register, `{"Name":"by-hand","Kind":"connect-proxy","Port":99,"Proxy":{"DestinationServiceName":"hand"}}`)
	s.noteJSON("/v1/agent/services")
	s.noteJSON("/v1/agent/checks")
	for _, id := range []string{"api-1", "api-1-sidecar-proxy", "web-sidecar-proxy", "native", "socket-sidecar-proxy"} {
		s.noteJSON("/v1/agent/service/" + id)
	}
	for _, name := range []string{"api", "web", "native", "snake", "hand"} {
		s.until("/v1/health/connect/"+name, func(r response) bool { return r.body != "[]" })
	}
	s.note("virtual address: %v", strings.Contains(s.get("/v1/health/connect/api").body, `"consul-virtual"`))
	s.noteJSON("/v1/health/connect/api", "ID", "Status", "Type")
	s.noteJSON("/v1/health/connect/web", "ID", "Status", "Type")
	s.noteJSON("/v1/health/connect/native", "ID")
	s.noteJSON("/v1/health/service/api", "ID", "Status")
	s.noteJSON("/v1/catalog/services")
	// The port is kept, and what the parent passes on follows it.
	s.put(register, `{"Name":"api","ID":"api-1","Port":9095,"Tags":["v2"],"Connect":{"SidecarService":{}}}`)
	s.noteJSON("/v1/agent/service/api-1-sidecar-proxy")
	s.put("/v1/agent/service/deregister/api-1", "")
	s.put("/v1/agent/service/deregister/web-sidecar-proxy", "")
	s.noteJSON("/v1/agent/services")
	s.until("/v1/health/connect/api", func(r response) bool { return r.body == "[]" })
	// The lowest free port is given out again.
	s.put(register, `{"Name":"next","Port":1,"Connect":{"SidecarService":{}}}`)
	s.noteJSON("/v1/agent/service/next-sidecar-proxy")
}

func registrationRefused(s *session) {
	for _, body := range []string{
		`{"ID":"x"}`,
		`{"Name":"x",`,
		`{"Name":"x","Bogus":1}`,
		`{"Name":"x","Check":{"Interval":"10s"}}`,
		`{"Name":"x","Check":{"TCP":"127.0.0.1:1"}}`,
		`{"Name":"x","Check":{"TTL":"zz"}}`,
		`{"Name":"x","Check":{"TTL":"1s","Status":"bogus"}}`,
		`{"Name":"x","Meta":{"a b":"c"}}`,
		`{"Name":"x","Kind":"connect-proxy"}`,
		`{"Name":"x","Kind":"connect-proxy","Port":1,"Proxy":{"DestinationServiceName":"x","Upstreams":[{"DestinationName":"a"}]}}`,
		`{"Name":"x","Kind":"connect-proxy","Port":1,"Proxy":{"DestinationServiceName":"x","Upstreams":[{"LocalBindPort":1}]}}`,
		`{"Name":"x","Connect":{"SidecarService":{"ID":"zz"}}}`,
	} {
		s.noteAnswer(http.MethodPut, register, body)
	}
	s.noteAnswer(http.MethodPut, "/v1/agent/service/deregister/nope", "")
	s.noteAnswer(http.MethodGet, "/v1/agent/service/nope", "")
	s.noteAnswer(http.MethodPut, "/v1/agent/service/maintenance/nope?enable=true", "")
	s.noteAnswer(http.MethodPut, "/v1/agent/check/warn/nope", "")
	s.noteJSON("/v1/agent/services")
}

func centralDefaults(s *session) {
	const proxy = "/v1/agent/service/api-sidecar-proxy"
	s.put(register, `{"Name":"api","Port":9090,"Connect":{"SidecarService":{"Proxy":{"Config":{"a":1},"Upstreams":[
		{"DestinationName":"db","LocalBindPort":5000},
		{"DestinationName":"c","LocalBindPort":5001,"Config":{"protocol":"tcp","connect_timeout_ms":5},"MeshGateway":{"Mode":"none"}},
		{"DestinationType":"prepared_query","DestinationName":"q","LocalBindPort":5002}]}}}}`)
	hash := func() string { return s.get(proxy).header.Get("X-Consul-Contenthash") }
	// The agent learns of the defaults by watching the servers.
	write := func(body string) {
		before := hash()
		s.entry(body)
		s.until(proxy, func(response) bool { return hash() != before })
		s.noteJSON(proxy)
	}
	write(`{"Kind":"service-defaults","Name":"db","Protocol":"http"}`)
	write(`{"Kind":"service-defaults","Name":"api","Protocol":"tcp","MaxInboundConnections":9,"LocalConnectTimeoutMs":11,
		"LocalRequestTimeoutMs":12,"BalanceInboundConnections":"exact_balance","MaxRequestHeadersKB":77,
		"UpstreamConfig":{"Defaults":{"ConnectTimeoutMs":3000,"Limits":{"MaxConnections":7},"MeshGateway":{"Mode":"local"}},
		"Overrides":[{"Name":"db","PassiveHealthCheck":{"Interval":"22s","MaxFailures":4},"Protocol":"grpc","Limits":{"MaxPendingRequests":3}}]},
		"Mode":"direct","TransparentProxy":{"OutboundListenerPort":17}}`)
	write(`{"Kind":"proxy-defaults","Name":"global","Config":{"x":1,"local_connect_timeout_ms":99,"a":5},"MeshGateway":{"Mode":"remote"},
		"AccessLogs":{"Enabled":true},"Expose":{"Paths":[{"Path":"/h","LocalPathPort":1,"ListenerPort":2}]}}`)
	s.put(register, `{"Name":"logs","Port":1,"Connect":{"SidecarService":{"Proxy":{"AccessLogs":{"Enabled":true,"Type":"stderr"}}}}}`)
	write(`{"Kind":"proxy-defaults","Name":"global","Config":{"x":1,"local_connect_timeout_ms":99,"a":5},
		"AccessLogs":{"Enabled":true,"DisableListenerLogs":true,"Type":"file","Path":"/x/y","TextFormat":"%PROTOCOL%\\n"}}`)
	s.until("/v1/agent/service/logs-sidecar-proxy", func(r response) bool { return strings.Contains(string(r.body), "DisableListenerLogs") })
	s.noteJSON("/v1/agent/service/logs-sidecar-proxy")
	s.noteJSON("/v1/agent/services")
	s.noteJSON("/v1/config/service-defaults/api")
	s.noteJSON("/v1/config/proxy-defaults/global")
	before := hash()
	s.call(http.MethodDelete, "/v1/config/service-defaults/api", "")
	s.until(proxy, func(response) bool { return hash() != before })
	s.noteJSON(proxy)
}

func checks(s *session) {
	var status atomic.Int64
	status.Store(http.StatusOK)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("X-Check") != "yes" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(int(status.Load()))
	}))
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close()
	s.put(register, fmt.Sprintf(`{"Name":"api","ID":"api-1","Port":9090,
		"Checks":[{"CheckID":"ttl","TTL":"1h"}],
		"Connect":{"SidecarService":{"Checks":[
			{"CheckID":"alias","AliasService":"api-1"},
			{"CheckID":"short","TTL":"1s","Status":"passing"},
			{"CheckID":"tcp","TCP":%q,"Interval":"1s"},
			{"CheckID":"http","HTTP":%q,"Method":"POST","Header":{"X-Check":["yes"]},"Interval":"1s","Timeout":"1s"}]}}}`, l.Addr(), web.URL))
	s.noteJSON("/v1/agent/checks", "Status", "Interval")
	s.untilStatus("api", "alias", "critical")
	s.untilStatus("api", "tcp", "passing")
	s.untilStatus("api", "http", "passing")
	s.untilStatus("api", "short", "critical") // it expired
	s.note("passing instances: %s", s.get("/v1/health/connect/api?passing").body)
	status.Store(http.StatusTooManyRequests)
	s.untilStatus("api", "http", "warning")
	status.Store(http.StatusServiceUnavailable)
	s.untilStatus("api", "http", "critical")
	l.Close()
	s.untilStatus("api", "tcp", "critical")
	s.put("/v1/agent/check/update/ttl", `{"Status":"warning","Output":"hm"}`)
	s.untilStatus("api", "alias", "warning")
	s.put("/v1/agent/check/pass/ttl?note=fine", "")
	s.untilStatus("api", "alias", "passing")
	ttl := into[map[string]struct{ Status, Output string }](s, s.get("/v1/agent/checks"))["ttl"]
	s.note("a TTL check keeps its note: %+v", ttl)
	s.put("/v1/agent/check/fail/ttl", "")
	s.untilStatus("api", "alias", "critical")
	s.put("/v1/agent/check/warn/ttl", "")
	s.untilStatus("api", "alias", "warning")
	s.noteAnswer(http.MethodPut, "/v1/agent/check/warn/tcp", "")
	s.noteAnswer(http.MethodPut, "/v1/agent/check/update/ttl", `{"Status":"bogus"}`)
}

func checksKept(s *session) {
	ids := func() {
		out := map[string]string{}
		for id, c := range into[map[string]struct{ Status string }](s, s.get("/v1/agent/checks")) {
			out[id] = c.Status
		}
		s.note("checks: %v", out)
	}
	s.put(register, `{"Name":"a","Checks":[{"TTL":"1h","CheckID":"one"},{"TTL":"1h","CheckID":"two","Status":"passing"}]}`)
	s.put("/v1/agent/check/pass/one", "")
	ids()
	s.put(register, `{"Name":"a","Checks":[{"TTL":"1h","CheckID":"one"},{"TTL":"1h","CheckID":"three"}]}`)
	ids()
	s.put(register+"?replace-existing-checks", `{"Name":"a","Checks":[{"TTL":"1h","CheckID":"one"},{"TTL":"1h","CheckID":"four","Status":"warning"}]}`)
	ids()
	s.put(register+"?replace-existing-checks=true", `{"Name":"a","Check":{"TTL":"1h"}}`)
	ids()
}

func maintenance(s *session) {
	s.put(register, `{"Name":"api","Port":9090,"Connect":{"SidecarService":{"Checks":[{"CheckID":"alias","AliasService":"api"}]}}}`)
	s.untilStatus("api", "alias", "passing")
	s.put("/v1/agent/service/maintenance/api?enable=true&reason=why", "")
	s.untilStatus("api", "alias", "critical")
	s.put("/v1/agent/service/maintenance/api-sidecar-proxy?enable=true", "")
	s.untilStatus("api", "_service_maintenance:api-sidecar-proxy", "critical")
	s.noteJSON("/v1/agent/checks")
	s.noteAnswer(http.MethodPut, "/v1/agent/service/maintenance/api", "")
	// A new registration does not end it, only the switch does.
	s.put(register+"?replace-existing-checks", `{"Name":"api","Port":9090,"Connect":{"SidecarService":{"Checks":[{"CheckID":"alias","AliasService":"api"}]}}}`)
	s.noteJSON("/v1/agent/checks")
	s.put("/v1/agent/service/maintenance/api?enable=false", "")
	s.put("/v1/agent/service/maintenance/api-sidecar-proxy?enable=false", "")
	s.until("/v1/health/connect/api?passing", func(r response) bool { return r.body != "[]" })
	s.noteJSON("/v1/agent/checks")
}

func filters(s *session) {
	for i, extra := range []string{`"Tags":["v1","x"],"Meta":{"version":"1"}`, `"Tags":["v2"],"Meta":{"version":"2","zone":"a"}`, `"Tags":["v2"]`} {
		s.put(register, fmt.Sprintf(`{"Name":"api","ID":"api-%d","Port":%d,%s,"Connect":{"SidecarService":{"Checks":[{"TTL":"1h","Status":%q}]}}}`,
			i+1, 9090+i, extra, []string{"passing", "warning", "critical"}[i]))
	}
	ids := func(r response) string {
		var out []string
		for _, e := range into[[]struct{ Service struct{ ID string } }](s, r) {
			out = append(out, e.Service.ID)
		}
		return strings.Join(out, " ")
	}
	const path = "/v1/health/connect/api"
	s.until(path, func(r response) bool { return len(strings.Fields(ids(r))) == 3 })
	for _, filter := range []string{
		"", `Service.Meta.version == "1"`, `Service.Meta.version == 2`, `Service.Meta["version"] != "1"`, `Service.Meta.zone == a`,
		`Service.Meta.zone != "b"`, `"v2" in Service.Tags`, "`v2` not in Service.Tags", `x in Service.Tags and Service.Meta.version == "1"`,
		`"v2" in Service.Tags and Service.Meta.version == 2 and Service.Meta.zone != "a"`,
	} {
		s.note("%s selects %q", filter, ids(s.get(query(path, "filter", filter))))
	}
	for _, params := range []string{"passing", "passing=1", "passing=false", "tag=v2", "tag=v1&tag=x", "dc=dc1"} {
		s.note("%s selects %q", params, ids(s.get(path+"?"+params)))
	}
	for _, params := range []string{"tag=v2", "tag=v1&tag=x"} {
		s.note("%s selects %q", params, ids(s.get("/v1/health/service/api?"+params)))
	}
	for _, bad := range []string{`Service.Meta.version =`, `Service.Bogus == "1"`, `"v2" in`, `Service.Meta.version == "1" nand "x" in Service.Tags`} {
		if status := s.get(query(path, "filter", bad)).status; status < 400 {
			s.Errorf("%s: filter %q: status %d", s.base, bad, status)
		}
	}
	s.noteAnswer(http.MethodGet, path+"?dc=dc9", "")
}
