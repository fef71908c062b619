// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// tape keeps the first records of a proxy: tests of memory have many.
type tape struct {
	mu  sync.Mutex
	all []flow.Record
}

func (k *tape) Done(r *flow.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.all) < 256 {
		k.all = append(k.all, r.Keep())
	}
}

func (k *tape) of(kind flow.Kind) []flow.Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(k.all), func(r flow.Record) bool { return r.Kind != kind })
}

// told waits for n records of a kind, of which there must be no more.
func told(t testing.TB, p *Proxy, kind flow.Kind, n int) []flow.Record {
	t.Helper()
	k, ok := p.observers.Sinks[0].(*tape)
	if !ok {
		t.Fatal("no tape")
	}
	until(t, fmt.Sprintf("there are %d records", n), func() bool { return len(k.of(kind)) >= n })
	all := k.of(kind)
	if len(all) != n {
		t.Fatalf("%d records, want %d: %+v", len(all), n, all)
	}
	return all
}

// gist is what tests compare of a record.
type gist struct {
	Direction      string
	Source, Target string
	Status         int
	Reason         connect.Reason
	Remote, Gone   bool
	Intention      string
	Tries          string
}

func gistOf(r flow.Record) gist {
	var tries []string
	for _, try := range r.Tries {
		text := fmt.Sprint(try.Status)
		if try.Reason != "" {
			text = string(try.Reason)
		}
		tries = append(tries, text)
	}
	return gist{r.Direction.String(), r.Source.Label(), string(r.Target), r.Status, r.Reason, r.Remote, r.Gone, r.Intention, strings.Join(tries, " ")}
}

func TestAConnectionLeavesOneRecordOnEachSide(t *testing.T) {
	t.Parallel()
	r := newPair(t, DefaultLimits())
	c := r.call(t)
	if err := roundTrip(c, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	out, in := told(t, r.web, flow.Connection, 1)[0], told(t, r.api, flow.Connection, 1)[0]
	want := gist{Direction: "outbound", Source: "web", Target: string(out.Target), Tries: "0"}
	if diff := cmp.Diff(want, gistOf(out)); diff != "" || out.Target == "" {
		t.Errorf("outbound (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(gist{Direction: "inbound", Source: "web", Intention: "default policy"}, gistOf(in)); diff != "" {
		t.Errorf("inbound (-want +got):\n%s", diff)
	}
	for _, side := range []flow.Record{out, in} {
		if side.Sent != 5 || side.Received != 5 || side.Duration <= 0 || !side.Downstream.IsValid() || side.Endpoint == "" || side.Snapshot != 1 {
			t.Errorf("%+v", side)
		}
	}
	if in.Handshake <= 0 || !in.Allowed || !in.Judged || in.Service != "api" || out.Service != "web" {
		t.Errorf("%+v", in)
	}
}

func TestEveryRefusedConnectionSaysWhyInItsRecord(t *testing.T) {
	t.Parallel()
	t.Run("denied", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
			s.Intentions = []connect.Intention{intention("web", connect.Deny)}
		}))
		r.callInVain(t)
		in := told(t, r.api, flow.Connection, 1)[0]
		if in.Reason != connect.IntentionDenied || in.Allowed || in.RuleIndex != 0 || !strings.Contains(in.Why, "web") {
			t.Errorf("%+v", in)
		}
	})
	t.Run("cut while open", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		c := r.call(t)
		if err := roundTrip(c, "hello"); err != nil {
			t.Fatal(err)
		}
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
			s.Intentions = []connect.Intention{intention("web", connect.Deny)}
		}))
		closed(t, c)
		in := told(t, r.api, flow.Connection, 1)[0]
		if in.Reason != connect.IntentionDenied || in.Allowed || in.Sent != 5 || in.Intention != "web → api" {
			t.Errorf("%+v", in)
		}
	})
	t.Run("application gone", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = 1 }))
		r.callInVain(t)
		if in := told(t, r.api, flow.Connection, 1)[0]; in.Reason != connect.AppUnreachable || !in.Allowed {
			t.Errorf("%+v", in)
		}
	})
	t.Run("endpoints gone", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		apply(t, r.web, next(calling(service(r.ca, "web", nil), "api", []net.Addr{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}}), func(*connect.Snapshot) {}))
		r.callInVain(t)
		out := told(t, r.web, flow.Connection, 1)[0]
		if out.Reason != connect.ConnectFailed || len(out.Tries) != 2 || out.Retries != 1 || out.Tries[0].Error == "" || out.Tries[0].Endpoint == out.Tries[1].Endpoint {
			t.Errorf("%+v", out)
		}
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		limits := DefaultLimits()
		limits.Outbound = 1
		r := newPair(t, limits)
		c := r.call(t)
		if err := roundTrip(c, "hello"); err != nil {
			t.Fatal(err)
		}
		r.callInVain(t)
		if out := told(t, r.web, flow.Connection, 1)[0]; out.Reason != connect.LimitExceeded || out.Upstream != "api" {
			t.Errorf("%+v", out)
		}
	})
	t.Run("strangers", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		c, err := r.as(t, meshca.New("other").Leaf("web", nil))
		if err == nil {
			closed(t, c)
		}
		in := told(t, r.api, flow.Connection, 1)[0]
		if in.Reason != connect.TLSFailed || in.Source != (connect.Identity{}) || in.Judged {
			t.Errorf("%+v", in)
		}
	})
	t.Run("drained", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		c := r.call(t)
		if err := roundTrip(c, "hello"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.api.Drain(ctx)
		closed(t, c)
		if in := told(t, r.api, flow.Connection, 1)[0]; in.Reason != connect.Draining {
			t.Errorf("%+v", in)
		}
	})
}

func TestARequestLeavesOneRecordOnEachSide(t *testing.T) {
	t.Parallel()
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			r := newHTTPPair(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
				_, _ = io.WriteString(w, "made")
			}))
			req := newRequest(t, http.MethodPost, r.url(t, "/things?q=1"), strings.NewReader("a thing"))
			if got := send(t, r.client(t), req); got.status != http.StatusCreated {
				t.Fatalf("%+v", got)
			}
			out, in := told(t, r.web, flow.Request, 1)[0], told(t, r.api, flow.Request, 1)[0]
			if diff := cmp.Diff(gist{Direction: "outbound", Source: "web", Target: string(out.Target), Status: 201, Tries: "201"}, gistOf(out)); diff != "" || out.Target == "" || out.Node == "" {
				t.Errorf("outbound (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(gist{Direction: "inbound", Source: "web", Status: 201, Intention: "default policy", Tries: "201"}, gistOf(in)); diff != "" {
				t.Errorf("inbound (-want +got):\n%s", diff)
			}
			for _, side := range []flow.Record{out, in} {
				if side.Sent != 7 || side.Received != 4 || side.Method != "POST" || side.Path != "/things?q=1" || side.FirstByte <= 0 || side.Duration < side.FirstByte || side.Endpoint == "" {
					t.Errorf("%+v", side)
				}
			}
		})
	}
}

func TestEveryFailedRequestSaysWhyInItsRecord(t *testing.T) {
	t.Parallel()
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			_, _ = io.Copy(io.Discard, r.Body) // only then net/http looks whether the caller is there
			<-r.Context().Done()
		}
	})
	for name, tc := range map[string]struct {
		path    string
		api     func(*connect.Snapshot)
		web     func(*connect.Snapshot)
		out, in gist // without source, target and direction
		silent  bool // the request does not arrive
	}{
		"denied": {
			path: "/",
			api:  func(s *connect.Snapshot) { s.Intentions = []connect.Intention{intention("web", connect.Deny)} },
			out:  gist{Status: 403, Reason: connect.IntentionDenied, Remote: true, Tries: "403"},
			in:   gist{Status: 403, Reason: connect.IntentionDenied, Intention: "web → api"},
		},
		"application gone": {
			path: "/", api: func(s *connect.Snapshot) { s.Service.LocalPort = 1 },
			out: gist{Status: 503, Reason: connect.AppUnreachable, Remote: true, Tries: "503"},
			in:  gist{Status: 503, Reason: connect.AppUnreachable, Intention: "default policy", Tries: "app_unreachable"},
		},
		"too slow": {
			path: "/slow", api: func(s *connect.Snapshot) { s.Service.LocalRequestTimeout = 50 * time.Millisecond },
			out: gist{Status: 504, Reason: connect.RequestTimeout, Remote: true, Tries: "504"},
			in:  gist{Status: 504, Reason: connect.RequestTimeout, Intention: "default policy", Tries: "request_timeout"},
		},
		"no endpoint": {
			path: "/", silent: true,
			web: func(s *connect.Snapshot) {
				s.Endpoints = map[connect.TargetID][]connect.Endpoint{}
			},
			out: gist{Status: 503, Reason: connect.NoHealthyEndpoint},
		},
		"limited": {
			path: "/", api: func(s *connect.Snapshot) { s.Service.RateLimits.MaxBody = 1 },
			out: gist{Status: 413, Reason: connect.LimitExceeded, Remote: true, Tries: "413"},
			in:  gist{Status: 413, Reason: connect.LimitExceeded, Intention: "default policy"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newHTTPPair(t, connect.HTTP, app)
			for _, side := range []struct {
				p      *Proxy
				s      *connect.Snapshot
				change func(*connect.Snapshot)
			}{{r.api, r.apiSnap, tc.api}, {r.web, r.webSnap, tc.web}} {
				if side.change != nil {
					apply(t, side.p, next(side.s, side.change))
				}
			}
			got := send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, tc.path), strings.NewReader("a body")))
			out := told(t, r.web, flow.Request, 1)[0]
			tc.out.Direction, tc.out.Source, tc.out.Target = "outbound", "web", string(out.Target)
			if diff := cmp.Diff(tc.out, gistOf(out)); diff != "" {
				t.Errorf("outbound (-want +got):\n%s", diff)
			}
			if header := got.header.Get(reasonHeader); header != string(out.Reason) || out.Why == "" {
				t.Errorf("the header says %q, the record %q because %q", header, out.Reason, out.Why)
			}
			if tc.silent {
				return
			}
			in := told(t, r.api, flow.Request, 1)[0]
			tc.in.Direction, tc.in.Source = "inbound", "web"
			if diff := cmp.Diff(tc.in, gistOf(in)); diff != "" {
				t.Errorf("inbound (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARequestThatIsCutOrLeftSaysSoInItsRecord(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{}, 4)
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		waiting <- struct{}{}
		<-r.Context().Done()
	})
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		t.Run("denied meanwhile "+string(protocol), func(t *testing.T) {
			t.Parallel()
			r := newHTTPPair(t, protocol, app)
			resp, err := r.client(t).Do(newRequest(t, http.MethodGet, r.url(t, "/"), nil))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			<-waiting
			apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
				s.Intentions = []connect.Intention{intention("web", connect.Deny)}
			}))
			in := told(t, r.api, flow.Request, 1)[0]
			if in.Reason != connect.IntentionDenied || in.Allowed || in.Gone || in.Status != 200 || in.Intention != "web → api" {
				t.Errorf("%+v", in)
			}
		})
		t.Run("left "+string(protocol), func(t *testing.T) {
			t.Parallel()
			r := newHTTPPair(t, protocol, app)
			ctx, cancel := context.WithCancel(t.Context())
			resp, err := r.client(t).Do(newRequest(t, http.MethodGet, r.url(t, "/"), nil).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			<-waiting
			cancel()
			_ = resp.Body.Close()
			out, in := told(t, r.web, flow.Request, 1)[0], told(t, r.api, flow.Request, 1)[0]
			if !out.Gone || out.Reason != "" || !in.Gone || in.Reason != "" || in.Failed() {
				t.Errorf("outbound %+v\ninbound %+v", out, in)
			}
		})
	}
}
