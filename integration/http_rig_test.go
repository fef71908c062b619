// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// manySidecars lets one Consul serve the sidecars of many tests at once.
const manySidecars = `limits { http_max_conns_per_client = 4000 }
` + manyLeaves

// newHTTPMesh is a Consul whose services speak HTTP/1.1 unless they say
// otherwise, and may call each other unless an intention denies it.
func newHTTPMesh(t *testing.T) *realserver.Consul {
	t.Helper()
	consul := realserver.StartConsul(t, realserver.HCL(manySidecars), realserver.HCL(defaultDeny))
	entry(t, consul, `{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`)
	entry(t, consul, `{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"*","Action":"allow"}]}`)
	return consul
}

// entry writes a config entry; %s and the like stand for values, as in Sprintf.
func entry(t *testing.T, consul *realserver.Consul, format string, values ...any) {
	t.Helper()
	put(t, consul, "/v1/config", fmt.Sprintf(format, values...))
}

// forget deletes a config entry.
func forget(t *testing.T, consul *realserver.Consul, kind, name string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+consul.Addr+"/v1/config/"+kind+"/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("DELETE %s/%s: %s", kind, name, res.Status)
	}
}

// quoted is text as a string of JSON.
func quoted(t *testing.T, text string) string {
	t.Helper()
	out, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// serve runs an application that speaks HTTP/1.1 and HTTP/2 without TLS. It
// ends with the test, and its requests with it.
func serve(t *testing.T, h http.Handler) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{ReadHeaderTimeout: patience, Protocols: &protocols, Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr()
}

// version is the block of an instance of a subset.
func version(v string) string { return fmt.Sprintf("  meta = { version = %q }", v) }

// pair runs service web-NAME, which calls NAME, and the instances of NAME, all in one
// agent; their names are set here. It returns when a first call has been answered.
func pair(t *testing.T, consul *realserver.Consul, name string, web service, instances ...service) (*outrider, *caller) {
	t.Helper()
	var config strings.Builder
	for i, s := range instances {
		s.id, s.name = fmt.Sprintf("%s-%d", name, i+1), name
		config.WriteString(s.stanza(t))
	}
	web.name, web.upstream, web.port = "web-"+name, name, freePort(t)
	config.WriteString(web.stanza(t))
	o := start(t, consul, config.String())
	o.endpoints(t, web.name, len(instances))
	return o, newCaller(t, web.port, false)
}

// sidecar is the status of one of several sidecars.
func (o *outrider) sidecar(t *testing.T, service string) agent.SidecarStatus {
	t.Helper()
	body, err := o.ask("/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatalf("status %s: %v", body, err)
	}
	for _, sc := range s.Sidecars {
		if sc.Service == service {
			return sc
		}
	}
	t.Fatalf("no sidecar of %q in %s", service, body)
	return agent.SidecarStatus{}
}

// endpoints waits until the upstreams of a service have n endpoints in use, over
// all targets.
func (o *outrider) endpoints(t *testing.T, service string, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%s uses %d endpoints", service, n), func() error {
		upstreams, got := o.sidecar(t, service).Proxy.Upstreams, map[string]bool{}
		for _, u := range upstreams {
			for _, target := range u.Targets {
				for _, e := range target.Endpoints {
					if e.NotUsed == "" {
						got[e.Address] = true
					}
				}
			}
		}
		if len(got) != n {
			return fmt.Errorf("it uses %d: %+v", len(got), upstreams)
		}
		return nil
	})
}

// A caller is an application that calls through a local listener, over
// connections that it keeps.
type caller struct {
	base   string
	client *http.Client
}

// newCaller speaks HTTP/1.1, or HTTP/2 without TLS when two is true.
func newCaller(t *testing.T, port int, two bool) *caller {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(!two)
	protocols.SetUnencryptedHTTP2(two)
	transport := &http.Transport{Protocols: &protocols, MaxIdleConnsPerHost: 64, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &caller{fmt.Sprintf("http://127.0.0.1:%d", port), &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// A reply is an answer, and what the application saw if it is one that reports.
type reply struct {
	report

	status int
	header http.Header
	text   string
}

// send makes a request; fields are names and values of its header, in turn.
func (c *caller) send(ctx context.Context, method, path, body string, fields ...string) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, from)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	res, err := c.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(res.Body); err != nil {
		return reply{}, fmt.Errorf("read the answer %s: %w", res.Status, err)
	}
	out := reply{status: res.StatusCode, header: res.Header, text: text.String()}
	if res.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(text.Bytes(), &out.report); err != nil {
			return reply{}, fmt.Errorf("decode %.200q: %w", text.Bytes(), err)
		}
	}
	return out, nil
}

func (c *caller) get(ctx context.Context, path string, fields ...string) (reply, error) {
	return c.send(ctx, http.MethodGet, path, "", fields...)
}

// want is get for a request whose status is known; another is an error.
func (c *caller) want(t *testing.T, status int, path string, fields ...string) reply {
	t.Helper()
	got, err := c.get(t.Context(), path, fields...)
	if err != nil {
		t.Fatal(err)
	}
	if got.status != status {
		t.Errorf("GET %s %v: status %d, want %d: %.200q", path, fields, got.status, status, got.text)
	}
	return got
}

// eventually is want for what takes its time to come into force.
func (c *caller) eventually(t *testing.T, status int, path string, fields ...string) reply {
	t.Helper()
	var last reply
	until(t, fmt.Sprintf("GET %s %v is answered with %d", path, fields, status), func() error {
		var err error
		if last, err = c.get(t.Context(), path, fields...); err == nil && last.status != status {
			err = fmt.Errorf("status %d: %.200q", last.status, last.text)
		}
		return err
	})
	return last
}

// refused says why Outrider, and not the application, answered.
func (r reply) refused() string { return r.header.Get("X-Outrider-Reason") }

// startRequests is load of requests: workers make one after the other.
func startRequests(t *testing.T, workers int, ask func(ctx context.Context) error) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range workers {
		l.all.Go(func() {
			l.every(ctx, 5*time.Millisecond, func() error {
				l.pings.Add(1)
				return ask(ctx)
			}, "a request")
		})
	}
	t.Cleanup(func() {
		cancel()
		l.all.Wait()
	})
	return l
}

func equal(got, want int64) error {
	if got != want {
		return fmt.Errorf("%d of %d", got, want)
	}
	return nil
}

// ask gets JSON from Consul's API.
func ask(t *testing.T, consul *realserver.Consul, path string, into any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+consul.Addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Fatalf("GET %s: %s: %v", path, res.Status, err)
	}
}

// receive waits for one signal of several that a channel holds.
func receive(t *testing.T, from <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-from:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}
