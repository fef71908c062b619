// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/hcl"
)

// resources are all that the admin API has, besides those that only the socket
// has.
func resources() []string {
	return []string{
		"/", "/page/page.js", "/live", "/ready", "/metrics", "/v1/status", "/v1/snapshot", "/v1/explain?source=web&destination=api",
		"/v1/failures", "/v1/edges", "/v1/series", "/debug/pprof/",
	}
}

func onTCP(t *testing.T, w *world) (r *rig, address string) {
	t.Helper()
	address = fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	r = startWith(t, w, func(string) *hcl.Config {
		cfg := w.config(t, "/unused", "web")
		cfg.Admin.Address = address
		return cfg
	})
	until(t, "it listens", func() error {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return r, address
}

// request makes a request to an address of TCP, or to the socket; header has names
// and values in turn.
func request(t *testing.T, network, address, method, target string, header ...string) int {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	host := address
	if network == "unix" {
		host = "outrider"
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// On TCP any program of the host may ask, and a browser for any page: it can read,
// and change nothing.
func TestNothingChangesByTCP(t *testing.T) {
	r, address := onTCP(t, newWorld(t))
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		for _, target := range append(resources(), "/v1/reload", "/v1/upgrade", "/v1/tap") {
			if code := request(t, "tcp", address, method, target); code != http.StatusMethodNotAllowed && code != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, target, code)
			}
		}
	}
	if code := request(t, "tcp", address, http.MethodGet, "/v1/tap"); code != http.StatusForbidden {
		t.Errorf("requests are shown on a port: %d", code)
	}
	if code := request(t, "tcp", address, http.MethodGet, "/v1/status"); code != http.StatusOK {
		t.Errorf("status: %d", code)
	}
	if strings.Contains(r.log.String(), "reloaded") {
		t.Error("it was reloaded")
	}
}

func TestTheSocketIsForItsOwnerAndGroup(t *testing.T) {
	r := start(t, newWorld(t), "web")
	r.waitReady(t)
	info, err := os.Stat(r.admin)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if code := request(t, "unix", r.admin, http.MethodPost, "/v1/reload"); code != http.StatusConflict {
		t.Errorf("a reload of an agent without files: %d", code)
	}
}

// A page that somebody who works on this host has open, of a name that was made to
// resolve to it or of another origin.
func TestPagesOfOthersReadNothing(t *testing.T) {
	w := newWorld(t)
	_, address := onTCP(t, w)
	socket := start(t, w, "api")
	socket.waitReady(t)
	for _, at := range [][2]string{{"tcp", address}, {"unix", socket.admin}} {
		for name, header := range map[string][]string{
			"rebound":        {"Host", "evil.example"},
			"rebound, port":  {"Host", "evil.example:80"},
			"another origin": {"Origin", "http://evil.example"},
			"a sandbox":      {"Origin", "null"},
			"another port":   {"Origin", "http://127.0.0.1:1"},
			"cross-site":     {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"},
			"same-site":      {"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"},
			"in a frame":     {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"},
		} {
			for _, target := range append(resources(), "/v1/tap") {
				if code := request(t, at[0], at[1], http.MethodGet, target, header...); code != http.StatusForbidden {
					t.Errorf("%s, %s, %s: %d", at[0], name, target, code)
				}
			}
		}
		if code := request(t, at[0], at[1], http.MethodGet, "/", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"); code != http.StatusOK {
			t.Errorf("a link to the page: %d", code)
		}
	}
	if code := request(t, "tcp", address, http.MethodGet, "/v1/status", "Origin", "http://"+address, "Sec-Fetch-Site", "same-origin"); code != http.StatusOK {
		t.Errorf("our own page: %d", code)
	}
}

// Whatever the API shows a browser, nobody may frame, sniff or share it.
func TestAnswersTellNoOtherOriginThatTheyMayBeRead(t *testing.T) {
	r := start(t, newWorld(t), "web")
	r.waitReady(t)
	for _, target := range resources() {
		w := httptest.NewRecorder()
		q := httptest.NewRequest(http.MethodGet, target, nil)
		q.Host = "localhost"
		localOnly(r.adminMux()).ServeHTTP(w, q)
		for name := range w.Header() {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s: %s", target, name, w.Header().Get(name))
			}
		}
	}
}

func TestCountersAreReadByAFewAtOnce(t *testing.T) {
	t.Parallel()
	inside, leave := make(chan struct{}), make(chan struct{})
	h := fewAtOnce(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-leave
	}))
	ask := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Code
	}
	codes := make(chan int)
	for range maxGathers {
		go func() { codes <- ask() }()
		<-inside
	}
	if code := ask(); code != http.StatusTooManyRequests {
		t.Errorf("one more: %d", code)
	}
	close(leave)
	for range maxGathers {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("%d", code)
		}
	}
}
