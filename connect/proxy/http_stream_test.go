// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A stream must not wait in the proxy: what one side sends reaches the other
// before it sends more.
func TestBytesFlowBothWaysAtOnce(t *testing.T) {
	for _, protocol := range protocols() {
		t.Run(string(protocol), func(t *testing.T) {
			r := newHTTPPair(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := http.NewResponseController(w)
				_ = c.EnableFullDuplex()
				w.WriteHeader(http.StatusOK)
				_ = c.Flush()
				lines := bufio.NewScanner(r.Body)
				for lines.Scan() {
					_, _ = fmt.Fprintf(w, "got %s\n", lines.Text())
					_ = c.Flush()
				}
			}))
			body, feed := io.Pipe()
			resp, err := r.client(t).Do(newRequest(t, http.MethodPost, r.url(t, "/"), body))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			answers := bufio.NewReader(resp.Body)
			for i := range 20 {
				_, _ = fmt.Fprintf(feed, "line %d\n", i)
				got, err := answers.ReadString('\n')
				if want := fmt.Sprintf("got line %d\n", i); err != nil || got != want {
					t.Fatalf("got %q, %v, want %q", got, err, want)
				}
			}
			_ = feed.Close()
			if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
				t.Errorf("after the end: %q, %v", rest, err)
			}
		})
	}
}

func TestBodyIsHeldBackUntilTheApplicationWantsIt(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !wanted {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			_, _ = io.Copy(w, r.Body)
		}))
		c := dial(t, r.web.Outbound(t.Context(), "api"))
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
		answers := bufio.NewReader(c)
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if !wanted {
			if !strings.HasPrefix(line, "HTTP/1.1 403") {
				t.Errorf("the first answer is %q", line)
			}
			continue
		}
		if !strings.HasPrefix(line, "HTTP/1.1 100") {
			t.Errorf("the first answer is %q", line)
		}
		_, _ = io.WriteString(c, "hello")
		rest, _ := io.ReadAll(answers)
		if !strings.Contains(string(rest), "HTTP/1.1 200") || !strings.HasSuffix(string(rest), "hello") {
			t.Errorf("then came %q", rest)
		}
	}
}

// upgrader speaks "websocket" after 101, or refuses.
func upgrader(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		http.Error(w, "upgrade wanted", http.StatusUpgradeRequired)
		return
	}
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	w.WriteHeader(http.StatusSwitchingProtocols)
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_ = rw.Flush()
	_, _ = io.Copy(c, rw)
}

func (r *httpPair) upgrade(t *testing.T) (*bufio.Reader, io.Writer) {
	t.Helper()
	c := dial(t, r.web.Outbound(t.Context(), "api"))
	_, _ = io.WriteString(c, "GET /socket HTTP/1.1\r\nHost: api\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n")
	answers := bufio.NewReader(c)
	resp, err := http.ReadResponse(answers, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v, %v", resp, err)
	}
	return answers, c
}

func TestUpgradedConnectionEchoesUntilOneSideEndsIt(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(upgrader))
	from, to := r.upgrade(t)
	for i := range 10 {
		_, _ = fmt.Fprintf(to, "ping %d\n", i)
		if got, err := from.ReadString('\n'); err != nil || got != fmt.Sprintf("ping %d\n", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if got := r.get(t, "/"); got.status != http.StatusUpgradeRequired {
		t.Errorf("without asking for an upgrade: %d", got.status)
	}
}

func TestWithdrawnIntentionEndsAnUpgradedConnection(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(upgrader))
	from, to := r.upgrade(t)
	_, _ = io.WriteString(to, "x\n")
	if _, err := from.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Intentions = []connect.Intention{intention("web", connect.Deny)} }))
	began := time.Now()
	if _, err := io.Copy(io.Discard, from); timedOut(err) {
		t.Fatal("it was not ended")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestUpgradeOverHTTP2IsAClearError(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(upgrader))
	got := raw(t, r.web.Outbound(t.Context(), "api"), "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 501") || !strings.Contains(got, "set its service's protocol to http") {
		t.Errorf("%q", got)
	}
}

func TestConnectIsRefused(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	got := raw(t, r.web.Outbound(t.Context(), "api"), "CONNECT db.internal:5432 HTTP/1.1\r\nHost: db.internal:5432\r\nConnection: close\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 405") {
		t.Errorf("%q", got)
	}
}
