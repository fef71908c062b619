// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package tap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is a tap on an admin socket as the agent's is.
type served struct {
	*Tap
	mu   sync.Mutex
	log  bytes.Buffer
	dial func(context.Context, string, string) (net.Conn, error)
}

func serve(t *testing.T, network string) *served {
	t.Helper()
	s := &served{}
	s.Tap = New(hclog.New(&hclog.LoggerOptions{Output: &s.log, Mutex: &s.mu}))
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
	}
	server := &http.Server{Handler: s.Tap, ReadTimeout: 200 * time.Millisecond, WriteTimeout: 200 * time.Millisecond}
	running, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- server.Serve(l) }()
	go func() { done <- s.Run(running) }()
	t.Cleanup(func() {
		cancel()
		_ = server.Shutdown(context.Background())
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	})
	return s
}

// ask opens a tap; the answer's body ends with the test.
func (s *served) ask(t *testing.T, query string) *http.Response {
	t.Helper()
	transport := &http.Transport{DialContext: s.dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://outrider/v1/tap?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func request(change func(*flow.Record)) *flow.Record {
	r := &flow.Record{
		Kind: flow.Request, Service: "api", Source: connect.Identity{Service: "web"}, Method: "GET", Path: "/a/b?token=hunter2", Status: 200,
		RequestHeader: connect.Header{
			"Authorization": {"Bearer hunter2"}, "Cookie": {"hunter2"}, "Accept": {"*/*"}, "X-Api-Key": {"hunter2"}, "X-Any": {"hunter2"}, "My-Token": {"hunter2"},
			"Odd": {"basic hunter2"}, "Referer": {"https://h/p?token=hunter2"}, "Accept-Language": {"en"},
		},
		ResponseHeader: connect.Header{"Set-Cookie": {"hunter2"}, "Content-Type": {"text/plain"}, "Location": {"/next?code=hunter2"}},
	}
	if change != nil {
		change(r)
	}
	return r
}

func next(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the stream has ended: %v", lines.Err())
	}
	return lines.Text()
}

func TestWatcherSeesWhatEndsLongerThanTheServerAnswers(t *testing.T) {
	t.Parallel()
	s := serve(t, "unix")
	res := s.ask(t, "")
	lines := bufio.NewScanner(res.Body)
	// The server's own bounds are 200 ms.
	for n := range 4 {
		<-time.After(150 * time.Millisecond)
		s.Done(request(func(r *flow.Record) { r.Path = fmt.Sprintf("/%d", n) }))
		var e Event
		if err := json.Unmarshal([]byte(next(t, lines)), &e); err != nil || e.Path != fmt.Sprintf("/%d", n) || e.Source != "web" {
			t.Fatalf("event %+v, %v", e, err)
		}
	}
}

func TestSecretsAreShownOnlyToWhoAsksAndTheLogSaysSo(t *testing.T) {
	t.Parallel()
	for query, tc := range map[string]struct {
		has, hasNot []string
		logged      bool
	}{
		"":          {[]string{`"/a/b"`, `"Accept"`, `"Content-Type"`}, []string{"hunter2", "Authorization", "Cookie", "Accept-Language", "Location"}, false},
		"headers=1": {[]string{`"Authorization":["(hidden)"]`, `"X-Any":["(hidden)"]`, `"My-Token":["(hidden)"]`, `"Odd":["(hidden)"]`, `"https://h/p"`, `"/next"`, `"en"`}, []string{"hunter2"}, false},
		"unsafe=1":  {[]string{"Bearer hunter2", `"token=hunter2"`, "code=hunter2"}, []string{"(hidden)"}, true},
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			s := serve(t, "unix")
			res := s.ask(t, query)
			s.Done(request(nil))
			got := next(t, bufio.NewScanner(res.Body))
			for _, word := range tc.has {
				if !strings.Contains(got, word) {
					t.Errorf("%s is not in %s", word, got)
				}
			}
			for _, word := range tc.hasNot {
				if strings.Contains(got, word) {
					t.Errorf("%s is in %s", word, got)
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if logged := strings.Contains(s.log.String(), "shown requests with their secrets"); logged != tc.logged {
				t.Errorf("log: %s", s.log.String())
			}
		})
	}
}

func TestNothingIsShownOnAPort(t *testing.T) {
	t.Parallel()
	s := serve(t, "tcp")
	for _, query := range []string{"", "unsafe=1"} {
		if res := s.ask(t, query); res.StatusCode != http.StatusForbidden {
			t.Errorf("%q: %s", query, res.Status)
		}
	}
	if s.watchers.Load() != nil {
		t.Error("somebody watches")
	}
}

func TestFiltersChoose(t *testing.T) {
	t.Parallel()
	denied := request(func(r *flow.Record) { r.Reason, r.Status = connect.IntentionDenied, 403 })
	left := request(func(r *flow.Record) { r.Reason, r.Gone = connect.StreamReset, true })
	out := request(func(r *flow.Record) {
		r.Direction, r.Upstream, r.Service, r.Method = flow.Outbound, "db", "web", "POST"
	})
	carried := &flow.Record{Kind: flow.Connection, Requests: 3}
	tcp := &flow.Record{Kind: flow.Connection, Service: "tcp"}
	all := map[string]*flow.Record{"ok": request(nil), "denied": denied, "left": left, "out": out, "carried": carried, "tcp": tcp}
	for query, want := range map[string]string{
		"":                      "denied left ok out tcp",
		"service=api":           "denied left ok",
		"direction=outbound":    "out",
		"source=web":            "denied left ok out",
		"upstream=db":           "out",
		"reason=stream_reset":   "left",
		"status=403":            "denied",
		"status=2XX":            "left ok out",
		"status=404":            "",
		"method=post":           "out",
		"path=/a":               "denied left ok out",
		"path=/a/b%3Ftoken":     "",
		"failed=1":              "denied",
		"kind=connection":       "carried tcp",
		"kind=request":          "denied left ok out",
		"failed=1&status=5xx":   "",
		"method=GET&status=2xx": "left ok",
	} {
		req, err := http.NewRequest(http.MethodGet, "/?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := parse(req.URL.Query())
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		var got []string
		for _, name := range []string{"carried", "denied", "left", "ok", "out", "tcp"} {
			if w.match(all[name]) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q shows %v, want %s", query, got, want)
		}
	}
}

func TestFiltersThatCannotMatchAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, "unix")
	for _, query := range []string{
		"servce=x", "direction=in", "reason=denied", "status=9xx", "status=abc", "status=99", "status=xx", "kind=x", "failed=perhaps", "rate=0", "rate=1001", "rate=x",
		"path=/" + strings.Repeat("a", maxParameter), "service=a&service=b",
	} {
		if res := s.ask(t, query); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%.40s: %s", query, res.Status)
		}
	}
}

func TestWatchersAreBoundedAndEndWithTheTap(t *testing.T) {
	t.Parallel()
	tap := New(hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- tap.Run(ctx) }()
	var all []*watcher
	for range maxWatchers {
		w := &watcher{}
		if !tap.join(w) {
			t.Fatal("a watcher is refused")
		}
		all = append(all, w)
	}
	if tap.join(&watcher{}) {
		t.Error("there is one too many")
	}
	for _, w := range all {
		tap.leave(w)
	}
	if tap.watchers.Load() != nil {
		t.Error("somebody watches")
	}
	cancel()
	if err := <-ended; err != nil || tap.join(&watcher{}) {
		t.Errorf("%v, or somebody watches after the end", err)
	}
}

func TestSlowReaderHoldsUpNobodyAndIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tap := New(hclog.NewNullLogger())
		w := &watcher{events: make(chan *Event, queued), pace: rate.NewLimiter(MaxRate, MaxRate)}
		tap.join(w)
		for range 3 * queued { // nobody reads
			tap.Done(request(nil))
		}
		if n := w.notices(); len(n) != 1 || n[0].LeftOut != 2*queued || !strings.Contains(n[0].Because, "slow") {
			t.Errorf("notices %+v", n)
		}
		if n := w.notices(); n != nil {
			t.Errorf("told twice: %+v", n)
		}
	})
}

func TestRateIsKeptAndTheRestCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tap := New(hclog.NewNullLogger())
		w := &watcher{events: make(chan *Event, queued), pace: rate.NewLimiter(20, 20)}
		tap.join(w)
		for range 2 {
			for range 100 {
				tap.Done(request(nil))
			}
			if len(w.events) != 20 {
				t.Errorf("%d are shown", len(w.events))
			}
			if n := w.notices(); len(n) != 1 || n[0].LeftOut != 80 || !strings.Contains(n[0].Because, "rate") {
				t.Errorf("notices %+v", n)
			}
			for range 20 {
				<-w.events
			}
			<-time.After(time.Second)
		}
	})
}

func TestNoticesReachTheWatcher(t *testing.T) {
	t.Parallel()
	s := serve(t, "unix")
	res := s.ask(t, "rate=1")
	for range 5 {
		s.Done(request(nil))
	}
	lines := bufio.NewScanner(res.Body)
	next(t, lines)
	var n Notice
	if err := json.Unmarshal([]byte(next(t, lines)), &n); err != nil || n.LeftOut == 0 {
		t.Errorf("notice %+v, %v", n, err)
	}
}

func TestNobodyWatchingCostsNothing(t *testing.T) { //nolint:paralleltest // allocations are counted
	tap := New(hclog.NewNullLogger())
	r := request(nil)
	if n := testing.AllocsPerRun(100, func() { tap.Done(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHeadersThatAreShownAreBounded(t *testing.T) {
	t.Parallel()
	h := connect.Header{}
	for n := range 500 {
		h[fmt.Sprintf("H%d", n)] = []string{strings.Repeat("v", 4096)}
	}
	for _, s := range []show{{headers: true}, {unsafe: true}} {
		size := 0
		for name, values := range s.header(h) {
			size += len(name) + len(values[0])
		}
		if size == 0 || size > maxHeader {
			t.Errorf("%d bytes", size)
		}
	}
}
