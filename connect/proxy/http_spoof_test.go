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
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// What the proxy vouches for is its own word, whatever the client wraps around
// it.
func TestCallerCannotTouchWhatTheProxyVouchesFor(t *testing.T) {
	r := newAttacked(t, nil)
	const field = "X-Forwarded-Client-Cert"
	ours := "By=" + meshca.ID("api").String() + ";Hash="
	for _, tc := range []struct {
		name   string
		fields []string
		before string // what stands in front of our element
	}{
		{"named as of the connection", []string{"Connection: x-forwarded-client-cert", field + ": By=lie"}, ""},
		{"an element that is whole", []string{field + `: By=a;Subject="x,y"`}, `By=a;Subject="x,y",`},
		{"an escaped quote", []string{field + `: By=a;Subject="x\"y"`}, `By=a;Subject="x\"y",`},
		{"a quoted string without end", []string{field + `: By=a;URI=spiffe://lie;Subject="`}, ""},
		{"an end that is escaped", []string{field + `: By=a;URI=spiffe://lie;Subject="x\"`}, ""},
		{"a backslash at the end", []string{field + `: By=a\`}, ""},
		{"an empty field", []string{field + ":"}, ""},
		{"two fields with half a string each", []string{field + `: By=a;Subject="x`, field + `: y"`}, `By=a;Subject="x,y",`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, got := r.ask(t, getOf("/", tc.fields...))
			values := got.field(field)
			if len(values) != 1 || !strings.HasPrefix(values[0], tc.before+ours) || !strings.HasSuffix(values[0], ";URI="+meshca.ID("web").String()) {
				t.Errorf("the application got %q", values)
			}
		})
	}
}

func TestTrailersThatMustNotBecomeFieldsAreLeftOut(t *testing.T) {
	names := []string{
		"Content-Length", "Transfer-Encoding", "Host", "Authorization", "Cookie", "X-Forwarded-Client-Cert", "X-Outrider-Deadline-Ms",
		"Content-Type", "If-Match", "Te", "Connection", "Grpc-Timeout",
	}
	r := newAttacked(t, nil)
	for way, connect := range r.ways() {
		for _, name := range names {
			announced := name
			if name == "Content-Length" || name == "Transfer-Encoding" {
				announced = "X-Other" // announcing these is refused at once
			}
			c := connect(t)
			_, _ = io.WriteString(c, "POST /p HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, "+announced+"\r\n\r\n"+
				"5\r\nhello\r\n0\r\nX-Sum: 42\r\nX-Unannounced: 1\r\n"+name+": 7\r\n\r\n"+follow)
			answers := statuses(c, 5*time.Second)
			arrivals, problems := r.app.take()
			if len(problems) > 0 || words(arrivals) != "POST /p [hello]"+nextGet || answers != next200 {
				t.Fatalf("%s, %s: %q, %v, %q", way, name, answers, arrivals, problems)
			}
			if got := fmt.Sprint(arrivals[0].trailers); got != "[X-Sum: 42]" {
				t.Errorf("%s, %s: the trailers are %s", way, name, got)
			}
			for _, value := range arrivals[0].field(name) {
				if value == "7" {
					t.Errorf("%s: %s became a field", way, name)
				}
			}
		}
	}
}

// Only a proxy of the mesh says that a proxy has answered.
func TestApplicationCannotSpeakForTheProxy(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Outrider-Reason", "intention_denied")
		w.Header().Set("Connection", "X-Internal")
		w.Header().Set("X-Internal", "1")
	}))
	got := r.get(t, "/")
	if got.status != 200 || got.header["X-Outrider-Reason"] != nil || got.header["X-Internal"] != nil {
		t.Errorf("%d %v", got.status, got.header)
	}
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.DefaultAction = connect.Deny }))
	if got := r.get(t, "/"); got.header.Get("X-Outrider-Reason") != "intention_denied" {
		t.Errorf("what the proxy of the mesh says is lost: %v", got.header)
	}
}

// After a change of the protocol nobody reads what goes over, so that it must
// have been asked for, and be the one protocol that is meant.
func TestNoTunnelButTheOneThatWasAskedFor(t *testing.T) {
	const to = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
	ask := func(protocol string) string {
		return "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nUpgrade: " + protocol + "\r\n\r\n"
	}
	for _, tc := range []struct{ name, request, answer, want string }{
		{"nobody asked", "GET / HTTP/1.1\r\nHost: api\r\n\r\n", to + "websocket\r\n\r\n", "503"},
		{"cleartext HTTP/2", ask("h2c"), to + "h2c\r\n\r\n", "503"},
		{"a list with HTTP/2", ask("h2c, websocket"), to + "h2c\r\n\r\n", "503"},
		{"TLS", ask("TLS/1.2"), to + "TLS/1.2\r\n\r\n", "503"},
		{"another than was asked for", ask("websocket"), to + "h2c\r\n\r\n", "503"},
		{"without saying to what", ask("websocket"), "HTTP/1.1 101 Switching Protocols\r\n\r\n", "503"},
		{"as asked for", ask("WebSocket"), to + "websocket\r\n\r\n", "101"},
	} {
		r := newAttackedApp(t, nil, func(arrival) string { return tc.answer })
		for way, connect := range r.ways() {
			t.Run(tc.name+"/"+way, func(t *testing.T) {
				c := connect(t)
				_, _ = io.WriteString(c, tc.request)
				line, _ := bufio.NewReader(c).ReadString('\n')
				if !strings.HasPrefix(line, "HTTP/1.1 "+tc.want) {
					t.Errorf("the answer is %q, want %s", line, tc.want)
				}
				_ = c.Close()
				arrivals, _ := r.app.take()
				if len(arrivals) != 1 {
					t.Fatalf("the application got %v", arrivals)
				}
				asked := append(arrivals[0].field("Upgrade"), arrivals[0].field("HTTP2-Settings")...)
				if got := strings.Join(asked, " "); got != "" && got != "websocket" {
					t.Errorf("the application was asked for %q", got)
				}
			})
		}
	}
}

func TestWebSocketOutlivesTheTimeOfItsRequest(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(upgrader))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalRequestTimeout = 100 * time.Millisecond }))
	r.route(t, connect.ChainRoute{RequestTimeout: 100 * time.Millisecond})
	from, to := r.upgrade(t)
	for range 4 {
		wait(t.Context().Done(), 100*time.Millisecond)
		_, _ = io.WriteString(to, "ping\n")
		if got, err := from.ReadString('\n'); err != nil || got != "ping\n" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// What a caller says about its patience shortens the time of the route and never
// lengthens it; what cannot be read says nothing.
func TestDeadlinesOnlyShorten(t *testing.T) {
	hold := make(chan struct{})
	t.Cleanup(func() { close(hold) })
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
	}))
	r.route(t, connect.ChainRoute{RequestTimeout: 300 * time.Millisecond})
	for _, text := range []string{"3600000", "99999999999999999999", "9223372036854775807", "1e9", "300s", ""} {
		began := time.Now()
		got := r.get(t, "/hold", "X-Outrider-Deadline-Ms", text)
		if took := time.Since(began); got.status != http.StatusGatewayTimeout || took < 250*time.Millisecond || took > 10*time.Second {
			t.Errorf("deadline %q: %d after %v", text, got.status, took)
		}
		if got := r.get(t, "/", "X-Outrider-Deadline-Ms", text); got.status != 200 {
			t.Errorf("deadline %q: %d", text, got.status)
		}
	}
	for _, text := range []string{"0", "-1", "-9223372036854775808", "-9223372036855"} {
		if got := r.get(t, "/", "X-Outrider-Deadline-Ms", text); got.status != http.StatusGatewayTimeout {
			t.Errorf("deadline %q: %d", text, got.status)
		}
	}
}
