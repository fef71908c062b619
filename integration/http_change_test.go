// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// mixed is load of which every answer counts: requests that may be sent twice,
// and requests with a body that may not.
func mixed(t *testing.T, c *caller) *load {
	t.Helper()
	var n atomic.Int64
	return startRequests(t, 4, func(ctx context.Context) error {
		if n.Add(1)%2 == 0 {
			return ok(c.get(ctx, "/read"))
		}
		got, err := c.send(ctx, http.MethodPost, "/write", "what is written")
		if err == nil && got.Digest != digest([]byte("what is written")) {
			err = fmt.Errorf("status %d, %s: the application got %d bytes: %.200q", got.status, got.refused(), got.Length, got.text)
		}
		return err
	})
}

func anInstanceEnds(t *testing.T, consul *realserver.Consul, protocol string) {
	name := "ending-" + protocol
	entry(t, consul, `{"Kind":"service-defaults","Name":%q,"Protocol":%q}`, name, protocol)
	port := freePort(t)
	one := start(t, consul, service{id: name + "-1", name: name, app: httpApp(t, "one")}.stanza(t))
	start(t, consul, service{id: name + "-2", name: name, app: httpApp(t, "two")}.stanza(t))
	web := start(t, consul, service{name: "web-" + name, upstream: name, port: port}.stanza(t))
	web.usableEndpoints(t, 2)
	c := newCaller(t, port, protocol == "http2")
	l := mixed(t, c)
	l.more(t, 100)
	if n := one.status(t).Proxy.Inbound.Requests; n == 0 {
		t.Error("the instance that is to end serves nothing")
	}
	one.stop(t)
	l.more(t, 100)
	web.usableEndpoints(t, 1)
	l.more(t, 100)
	l.end(t)
	if got := c.want(t, http.StatusOK, "/"); got.Server != "two" {
		t.Errorf("%q serves", got.Server)
	}
}

// changesLoseNothing writes and deletes every kind of config entry that a route
// depends on, each under load.
func changesLoseNothing(t *testing.T, consul *realserver.Consul, protocol string) {
	name := "living-" + protocol
	entry(t, consul, `{"Kind":"service-defaults","Name":%q,"Protocol":%q}`, name, protocol)
	port := freePort(t)
	v1, v2 := bothVersions(t)
	v1.id, v1.name, v2.id, v2.name = name+"-1", name, name+"-2", name
	api := start(t, consul, v1.stanza(t)+v2.stanza(t))
	web := start(t, consul, service{name: "web-" + name, upstream: name, port: port}.stanza(t))
	web.usableEndpoints(t, 2)
	l := mixed(t, newCaller(t, port, protocol == "http2"))
	l.more(t, 50)
	for _, change := range changes(name, protocol) {
		at, before := web, uint64(0)
		if change.inbound {
			at = api
		}
		before = at.status(t).Proxy.Snapshot
		if change.entry != "" {
			entry(t, consul, "%s", change.entry)
		} else {
			forget(t, consul, change.kind, name)
		}
		until(t, fmt.Sprintf("%s%s is in force", change.kind, change.entry), func() error {
			if now := at.status(t).Proxy.Snapshot; now == before {
				return fmt.Errorf("snapshot %d is", now)
			}
			return nil
		})
		l.more(t, 40)
	}
	l.end(t)
	for _, o := range []*outrider{web, api} {
		if refused := o.status(t).Proxy.Refused; len(refused) > 0 {
			t.Errorf("requests were refused: %v", refused)
		}
	}
}

// A change writes an entry, or deletes the one of a kind.
type change struct {
	entry, kind string
	inbound     bool // it concerns the called side
}

func changes(name, protocol string) []change {
	of := func(kind, rest string) change {
		return change{entry: fmt.Sprintf(`{"Kind":%q,"Name":%q,%s}`, kind, name, rest)}
	}
	inbound := func(c change) change {
		c.inbound = true
		return c
	}
	const subsets = `"Subsets":{"v1":{"Filter":"Service.Meta.version == v1"},"v2":{"Filter":"Service.Meta.version == v2"}}`
	return []change{
		of("service-resolver", subsets),
		of("service-splitter", `"Splits":[{"Weight":50,"ServiceSubset":"v1"},{"Weight":50,"ServiceSubset":"v2"}]`),
		of("service-splitter", `"Splits":[{"Weight":1,"ServiceSubset":"v1"},{"Weight":99,"ServiceSubset":"v2"}]`),
		of("service-splitter", `"Splits":[{"Weight":100,"ServiceSubset":"v1"}]`),
		of("service-router", `"Routes":[{"Match":{"HTTP":{"PathPrefix":"/read"}},"Destination":{"ServiceSubset":"v2","RequestTimeout":"50s"}}]`),
		of("service-router", `"Routes":[{"Match":{"HTTP":{"Methods":["POST"]}},"Destination":{"NumRetries":3,"RetryOn":["5xx"],"RequestHeaders":{"Set":{"x-a":"b"}}}}]`),
		{kind: "service-router"},
		of("service-resolver", subsets+`,"LoadBalancer":{"Policy":"ring_hash","HashPolicies":[{"SourceIP":true}]}`),
		{kind: "service-splitter"},
		of("service-resolver", subsets+`,"DefaultSubset":"v2","ConnectTimeout":"7s"`),
		of("service-resolver", subsets+`,"Failover":{"*":{"ServiceSubset":"v1"}},"LoadBalancer":{"Policy":"least_request"}`),
		{kind: "service-resolver"},
		inbound(of("service-intentions", `"Sources":[{"Name":"somebody","Action":"deny"}]`)),
		inbound(of("service-intentions", `"Sources":[{"Name":"*","Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/none"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]`)),
		inbound(change{kind: "service-intentions"}),
		inbound(of("service-defaults", fmt.Sprintf(`"Protocol":%q,"MaxRequestHeadersKB":96`, protocol))),
		inbound(of("service-defaults", fmt.Sprintf(`"Protocol":%q,"LocalRequestTimeoutMs":40000,"MaxInboundConnections":500`, protocol))),
	}
}
