// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// httpPair is web → api through both proxies, with an HTTP application that
// speaks HTTP/1.1 and HTTP/2 without TLS.
type httpPair struct {
	pair
	protocol connect.Protocol
}

// httpApp runs an application until the test ends.
func httpApp(t testing.TB, h http.Handler) net.Addr {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr()
}

func newHTTPPair(t testing.TB, protocol connect.Protocol, h http.Handler, before ...func(*Proxy)) *httpPair {
	t.Helper()
	ca := meshca.New("root")
	r := &httpPair{pair: pair{ca: ca, api: start(t, DefaultLimits()), web: start(t, DefaultLimits())}, protocol: protocol}
	for _, f := range before {
		f(r.api)
		f(r.web)
	}
	r.apiSnap = service(ca, "api", httpApp(t, h))
	r.apiSnap.Service.Protocol = protocol
	apply(t, r.api, r.apiSnap)
	r.webSnap = calling(service(ca, "web", nil), "api", []net.Addr{r.api.Inbound(t.Context())})
	r.webSnap.Chains["api"].Protocol = protocol
	apply(t, r.web, r.webSnap)
	return r
}

// client speaks to the upstream listener in the version of the protocol.
func (r *httpPair) client(t testing.TB) *http.Client { return clientOf(t, r.protocol != connect.HTTP) }

func clientOf(t testing.TB, h2 bool) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{Protocols: protocols, ExpectContinueTimeout: 5 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (r *httpPair) url(t testing.TB, path string) string {
	t.Helper()
	return "http://" + r.web.Outbound(t.Context(), "api").String() + path
}

// reply is what came back of a request.
type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
}

func send(t testing.TB, c *http.Client, req *http.Request) reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(req.Context(), 20*time.Second)
	defer cancel()
	resp, err := c.Do(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, resp.Trailer, string(body)}
}

func (r *httpPair) get(t testing.TB, path string, header ...string) reply {
	t.Helper()
	return send(t, r.client(t), newRequest(t, http.MethodGet, r.url(t, path), nil, header...))
}

func newRequest(t testing.TB, method, url string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

// raw sends bytes as they are to a listener and returns all that comes back.
func raw(t testing.TB, addr net.Addr, bytes string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, bytes); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	got, _ := io.ReadAll(bufio.NewReader(c))
	return string(got)
}
