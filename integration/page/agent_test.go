// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// lockedBuffer takes the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A mesh is one agent with web and api, on a real Consul.
type mesh struct {
	admin string // URL of the admin API
	calls string // URL of web's upstream api
	stop  func()
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	consul := realserver.StartConsul(t, realserver.HCL(`default_intention_policy = "deny"`))
	write(t, consul, `{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`)
	write(t, consul, `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Permissions":[
		{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "api\n") }))
	t.Cleanup(app.Close)
	admin, upstream := realserver.FreeAddr(t), realserver.FreeAddr(t)
	stanza := func(name, port, more string) string {
		return fmt.Sprintf("service {\n name = %q\n address = \"127.0.0.1\"\n port = %s\n connect {\n sidecar_service {\n port = %s\n%s\n}\n}\n}\n",
			name, port, portOf(t, realserver.FreeAddr(t)), more)
	}
	text := fmt.Sprintf("consul { address = %q }\nadmin { address = %q }\ndrain {\n propagation = \"0s\"\n timeout = \"2s\"\n}\n", consul.Addr, admin) +
		stanza("api", portOf(t, app.Listener.Addr().String()), "") +
		stanza("web", "1", fmt.Sprintf("proxy {\n upstreams {\n destination_name = \"api\"\n local_bind_port = %s\n}\n}", portOf(t, upstream)))
	m := &mesh{admin: "http://" + admin, calls: "http://" + upstream}
	m.run(t, text)
	return m
}

// run runs the agent until the test ends or stop is called, and waits until a
// call is answered.
func (m *mesh) run(t *testing.T, config string) {
	t.Helper()
	cfg, err := hcl.Parse("page.hcl", []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	a, err := agent.New(agent.Options{Config: cfg, Version: "1.2.3-test", Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: log})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, make(chan struct{})) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			t.Logf("log of outrider:\n%s", log)
		}
	})
	until(t, "web reaches api", func() error {
		code, err := m.call(t, "/")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("status %d", code)
		}
		return err
	})
}

// call is one of web to api.
func (m *mesh) call(t *testing.T, path string) (int, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.calls+path, nil)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// write writes a config entry.
func write(t *testing.T, consul *realserver.Consul, entry string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+consul.Addr+"/v1/config", strings.NewReader(entry))
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("write %s: %s %s %v", entry, res.Status, text, err)
	}
}

// flow calls until the test ends.
func (m *mesh) flow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_, _ = m.call(t, "/orders")
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
}

const (
	webProxy = `[id="service/web-sidecar-proxy%s"]`
	apiProxy = `[id="service/api-sidecar-proxy%s"]`
)

func at(service, place string) string { return fmt.Sprintf(service, place) }

func TestAnAgentShowsWhatItDoesOnARealConsul(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	if code, err := m.call(t, "/admin/users?token=secret-of-the-caller"); err != nil || code != http.StatusForbidden {
		t.Fatalf("the call that is denied: %d %v", code, err)
	}
	m.flow(t)
	b := open(t, m.admin+"/")
	b.shows(t, "#host", "serving 2 sidecars", "1.2.3-test")
	b.shows(t, "#problems", "None that the agent knows of.")
	b.shows(t, at(apiProxy, "/certificate"), "spiffe://", "/ns/default/dc/dc1/svc/api", "Not before", "Not after")
	b.holds(t, "the bar of the certificate has begun", fmt.Sprintf(`(() => {
		const spent = Number(document.querySelector(%q).getAttribute("width"));
		return spent > 0 && spent < 300;
	})()`, at(apiProxy, "/certificate")+" svg.cert .spent"))
	b.shows(t, at(apiProxy, "/intentions"), "web", "by the first of 2 permissions that matches")
	b.holds(t, "calls that were allowed and denied are counted", fmt.Sprintf(`(() => {
		const cells = [...document.querySelectorAll(%q)].map((e) => Number(e.innerText));
		return cells.at(-2) > 2 && cells.at(-1) === 1;
	})()`, at(apiProxy, "/intentions")+" tbody tr:first-child td"))
	b.shows(t, at(apiProxy, "/inbound"), "web", "calls", "intention_denied 1")
	b.shows(t, at(webProxy, "/upstreams"), "api", "calls", "1 endpoint in use")
	b.holds(t, "all plots of the upstream have points", fmt.Sprintf(`(() => {
		const lines = [...document.querySelectorAll(%q)];
		return lines.length === 3 && lines.every((line) => Number(line.dataset.points) >= 2);
	})()`, at(webProxy, "/upstreams")+" .plot path"))
	b.shows(t, "#failures", "web → api", "intention_denied", "GET /admin/users")
	b.unfold(t)
	b.shows(t, at(webProxy, "/upstreams")+" table", "Endpoints of target api.default.default.dc1", "lab", "used")
	b.shows(t, "#failures", "web → api, precedence 9, permission 1")
	b.shows(t, "#sources", "fine")
	if text := eval[string](t, b, "document.documentElement.outerHTML"); strings.Contains(text, "secret-of-the-caller") {
		t.Error("the page shows the query of a path")
	}
	m.explains(t, b)
	b.expect("Failed to load resource")
	m.stop()
	b.shows(t, "#news", "The agent does not answer")
	b.shows(t, at(apiProxy, "/certificate"), "/svc/api")
}

func (m *mesh) explains(t *testing.T, b *tab) {
	t.Helper()
	b.do(t, chromedp.Focus(chromedp.CSS("#call")), chromedp.KeyEvent("web api GET /admin"), chromedp.KeyEvent(enterKey))
	b.shows(t, "#answer", "not served", "web → api GET /admin", "intention_denied")
	b.shows(t, "#explain .steps", "Upstream api", "Target api", "Intentions of api", "permission 1", "/svc/api")
	b.do(t, chromedp.Navigate(m.admin+"/#explain=web%20api%20GET%20%2F"))
	b.shows(t, "#answer", "served", "web → api GET /")
}
