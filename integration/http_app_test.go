// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"testing"
	"time"
)

// A report is what an HTTP application saw of a request.
type report struct {
	Server string
	Method string
	Target string // as on the wire
	Host   string
	Proto  string
	Header http.Header
	Length int    // of the body
	Digest string // of the body: SHA-256, hexadecimal
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// httpApp answers each request with a report on it, over HTTP/1.1 and HTTP/2
// without TLS. It ends with the test.
func httpApp(t *testing.T, name string) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{ReadHeaderTimeout: patience, Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(report{
			Server: name, Method: r.Method, Target: r.RequestURI, Host: r.Host, Proto: r.Proto,
			Header: r.Header, Length: len(body), Digest: digest(body),
		})
	})}
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

// A hclient speaks one version of HTTP to a local listener.
type hclient struct {
	port   int
	client *http.Client
}

// newHTTPClient speaks HTTP/1.1, or HTTP/2 without TLS when two is true. Each
// call has a connection of its own.
func newHTTPClient(port int, two bool) hclient {
	var protocols http.Protocols
	protocols.SetHTTP1(!two)
	protocols.SetUnencryptedHTTP2(two)
	transport := &http.Transport{DisableKeepAlives: !two, Protocols: &protocols, IdleConnTimeout: time.Second}
	return hclient{port, &http.Client{Transport: transport, Timeout: 15 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// send makes a request and returns the status with the application's report,
// which is zero when it was not the application that answered.
func (c hclient) send(t *testing.T, method, path string, header http.Header, body io.Reader) (int, report, error) {
	t.Helper()
	defer c.client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d%s", c.port, path), body)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	res, err := c.client.Do(r)
	if err != nil {
		return 0, report{}, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, report{}, fmt.Errorf("read the answer %s: %w", res.Status, err)
	}
	var out report
	if res.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(text, &out); err != nil {
			return res.StatusCode, report{}, fmt.Errorf("decode %.200q: %w", text, err)
		}
	}
	return res.StatusCode, out, nil
}
