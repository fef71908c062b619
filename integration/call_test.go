// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

const defaultDeny = `default_intention_policy = "deny"`

// mesh is web → api, each with an outrider of its own.
type mesh struct {
	consul   *realserver.Consul
	web, api *outrider
	port     int // of web's upstream api
}

func newMesh(t *testing.T, options ...realserver.Option) *mesh {
	t.Helper()
	return meshWith(t, realserver.StartConsul(t, options...), "")
}

// meshWith starts both with extra configuration.
func meshWith(t *testing.T, consul *realserver.Consul, extra string) *mesh {
	t.Helper()
	m := &mesh{consul: consul, port: freePort(t)}
	m.api = start(t, consul, extra+service{name: "api", app: app(t, "api")}.stanza(t))
	m.web = start(t, consul, extra+service{name: "web", upstream: "api", port: m.port}.stanza(t))
	m.web.usableEndpoints(t, 1)
	return m
}

func intend(t *testing.T, consul *realserver.Consul, action, src, dst string) {
	t.Helper()
	consul.Command(t, "intention", "create", "-replace", "-"+action, src, dst)
}

func (o *outrider) refused(t *testing.T, reason connect.Reason) int64 {
	t.Helper()
	return o.status(t).Proxy.Refused[reason]
}

func TestCallIsAllowed(t *testing.T) {
	t.Parallel()
	m := newMesh(t, realserver.HCL(defaultDeny))
	intend(t, m.consul, "allow", "web", "api")
	until(t, "the intention is in force", func() error { return pingOnce(m.port) })
}

func TestCallIsDeniedByDefaultAndByName(t *testing.T) {
	t.Parallel()
	m := newMesh(t, realserver.HCL(defaultDeny))
	denied := func(by string) {
		t.Helper()
		until(t, "the call is denied by "+by, func() error {
			if c, err := dial(m.port); err == nil {
				_ = c.Close()
				return fmt.Errorf("the call went through")
			}
			for _, r := range m.api.status(t).Proxy.Recent {
				if r.Reason == connect.IntentionDenied && strings.Contains(r.Text, "source web, intention "+by) {
					return nil
				}
			}
			return fmt.Errorf("api's outrider does not say so: %+v", m.api.status(t).Proxy.Recent)
		})
	}
	denied("default policy")
	intend(t, m.consul, "allow", "*", "api")
	intend(t, m.consul, "deny", "web", "api")
	denied("web → api")
}

// An intention is in force within a second of Consul's answer to whoever changed
// it. A machine that stalls all of this for a moment breaks no promise, so one
// round of three has to keep it; the other connection may never be touched.
func TestIntentionChangeCutsTheDeniedConnectionWithinASecondAndNoOther(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	shopPort := freePort(t)
	shop := start(t, m.consul, service{name: "shop", upstream: "api", port: shopPort}.stanza(t))
	shop.usableEndpoints(t, 1)
	allowed := mustDial(t, shopPort)
	rounds := int64(0)
	for took := patience; took > time.Second; {
		if rounds++; rounds > 3 {
			t.Fatal("a denied connection was never cut within a second")
		}
		intendOverHTTP(t, m.consul, "allow", "web", "api")
		until(t, "calls are allowed", func() error { return pingOnce(m.port) })
		before := m.api.refused(t, connect.IntentionDenied)
		denied := mustDial(t, m.port)
		intendOverHTTP(t, m.consul, "deny", "web", "api")
		took = denied.closedWithin(t, patience)
		t.Logf("cut %v after Consul answered the change of the intention", took)
		if n := m.api.refused(t, connect.IntentionDenied) - before; n != 1 {
			t.Errorf("%d connections were cut", n)
		}
		for range 20 {
			if err := allowed.ping(); err != nil {
				t.Fatalf("the allowed connection: %v", err)
			}
		}
	}
}

// pingOnce makes one call.
func pingOnce(port int) error {
	c, err := dial(port)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.ping()
}

// intendOverHTTP is intend without a command around it: it returns when Consul
// has answered.
func intendOverHTTP(t *testing.T, consul *realserver.Consul, action, src, dst string) {
	t.Helper()
	put(t, consul, "/v1/connect/intentions/exact?source="+src+"&destination="+dst, fmt.Sprintf(`{"Action":%q}`, action))
}

// put sends JSON to Consul's API.
func put(t *testing.T, consul *realserver.Consul, path, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+consul.Addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("PUT %s: %s: %s %v: sent %.2000s", path, answer.Status, text, err, body)
	}
}

func TestTrafficMovesWhenAnEndpointLeaves(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	port := freePort(t)
	one := start(t, consul, service{id: "api-1", name: "api", app: app(t, "one")}.stanza(t))
	start(t, consul, service{id: "api-2", name: "api", app: app(t, "two")}.stanza(t))
	web := start(t, consul, service{name: "web", upstream: "api", port: port}.stanza(t))
	web.usableEndpoints(t, 2)
	seen := map[string]int{}
	for range 20 {
		seen[servedBy(t, port)]++
	}
	if seen["one"] != 10 || seen["two"] != 10 {
		t.Errorf("20 calls were spread %v", seen)
	}
	l := newDialer(t, port)
	one.stop(t)
	web.usableEndpoints(t, 1)
	l.end(t)
	for range 10 {
		if server := servedBy(t, port); server != "two" {
			t.Fatalf("a call went to %q", server)
		}
	}
}

// newDialer is load without connections that stay, for endpoints that go.
func newDialer(t *testing.T, port int) *load { return startLoad(t, port, 0) }

// stop ends the process as a service manager does, and expects exit code 0.
func (o *outrider) stop(t *testing.T) {
	t.Helper()
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-o.done:
	case <-time.After(patience + 30*time.Second):
		t.Fatal("outrider did not end on SIGTERM")
	}
	if code := o.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestFailoverTargetTakesOver(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	port := freePort(t)
	primary := start(t, consul, service{name: "api", app: app(t, "primary")}.stanza(t))
	start(t, consul, service{name: "backup", app: app(t, "backup")}.stanza(t))
	writeConfig(t, consul, `{"Kind":"service-resolver","Name":"api","ConnectTimeout":"1s","Failover":{"*":{"Service":"backup"}}}`)
	web := start(t, consul, service{name: "web", upstream: "api", port: port}.stanza(t))
	web.usableEndpoints(t, 2)
	if server := servedBy(t, port); server != "primary" {
		t.Fatalf("a call went to %q while the primary is there", server)
	}
	primary.stop(t)
	until(t, "the failover target serves", func() error {
		c, err := dial(port)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if c.server != "backup" {
			return fmt.Errorf("served by %q", c.server)
		}
		return nil
	})
	start(t, consul, service{name: "api", app: app(t, "primary again")}.stanza(t))
	until(t, "the primary serves again", func() error {
		c, err := dial(port)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if c.server != "primary again" {
			return fmt.Errorf("served by %q", c.server)
		}
		return nil
	})
}

// writeConfig writes a config entry.
func writeConfig(t *testing.T, consul *realserver.Consul, entry string) {
	t.Helper()
	path := t.TempDir() + "/entry.json"
	writeFile(t, path, entry)
	consul.Command(t, "config", "write", path)
}

func TestRedirectAndSubsetsAreFollowed(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	port := freePort(t)
	for _, version := range []string{"v1", "v2"} {
		stanza := service{id: "api-" + version, name: "api", app: app(t, version)}.stanza(t)
		start(t, consul, strings.Replace(stanza, "port    =", fmt.Sprintf("meta    = { version = %q }\n  port    =", version), 1))
	}
	writeConfig(t, consul, `{"Kind":"service-resolver","Name":"api","DefaultSubset":"new","Subsets":{"new":{"Filter":"Service.Meta.version == v2"}}}`)
	writeConfig(t, consul, `{"Kind":"service-resolver","Name":"old-name","Redirect":{"Service":"api"}}`)
	web := start(t, consul, service{name: "web", upstream: "old-name", port: port}.stanza(t))
	web.usableEndpoints(t, 1)
	for range 6 {
		if server := servedBy(t, port); server != "v2" {
			t.Fatalf("a call went to %q", server)
		}
	}
}

// An operator adds an upstream to the registration; nobody restarts anything.
func TestUpstreamAddedToTheRegistrationAppears(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	start(t, consul, service{name: "api", app: app(t, "api")}.stanza(t))
	inbound, port := freePort(t), freePort(t)
	register := func(upstreams string) {
		path := t.TempDir() + "/service.json"
		writeFile(t, path, fmt.Sprintf(`{"service":{"name":"web","port":1,"address":"127.0.0.1","connect":{"sidecar_service":{"port":%d,"proxy":{"upstreams":[%s]}}}}}`, inbound, upstreams))
		consul.Command(t, "services", "register", path)
	}
	register("")
	o := &outrider{admin: t.TempDir() + "/admin.sock"}
	o.run(t, consul, "sidecar", "-sidecar-for", "web", "-admin", "unix://"+o.admin, "-log-level", "debug")
	o.waitReady(t)
	if n := len(o.status(t).Proxy.Upstreams); n != 0 {
		t.Fatalf("%d upstreams at first", n)
	}
	register(fmt.Sprintf(`{"destination_name":"api","local_bind_port":%d}`, port))
	o.usableEndpoints(t, 1)
	if err := mustDial(t, port).ping(); err != nil {
		t.Error(err)
	}
	register("")
	until(t, "the upstream is gone", func() error {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = c.Close()
			return fmt.Errorf("it still listens")
		}
		return nil
	})
}

func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	c := mustDial(t, m.port)
	if err := m.api.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until(t, "readiness fails", func() error {
		if body, err := m.api.ask("/ready"); err == nil {
			return fmt.Errorf("ready: %s", body)
		}
		return nil
	})
	m.web.usableEndpoints(t, 0)
	for range 20 {
		if err := c.ping(); err != nil {
			t.Fatalf("an open connection during the drain: %v", err)
		}
	}
	_ = c.Close()
	select {
	case <-m.api.done:
	case <-time.After(patience):
		t.Fatal("it did not end although its last connection has")
	}
	if code := m.api.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	until(t, "it is deregistered", func() error {
		if out := m.consul.Command(t, "catalog", "services"); strings.Contains(out, "api") {
			return fmt.Errorf("the catalog holds %s", out)
		}
		return nil
	})
}
