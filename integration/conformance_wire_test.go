// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A request is one of a conformance table. Nothing of it is checked or cleaned
// before it is on the wire.
type request struct {
	Method    string // GET when empty
	Path      string
	Authority string // "api.test" when empty
	Header    map[string][]string
	Headers   map[string][]string // another name of Header
}

// wire is the request in HTTP/1.1.
func (r request) wire() string {
	method, authority := r.Method, r.Authority
	if method == "" {
		method = http.MethodGet
	}
	if authority == "" {
		authority = "api.test"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", method, r.Path, authority)
	for _, header := range []map[string][]string{r.Header, r.Headers} {
		for name, values := range header {
			for _, value := range values {
				fmt.Fprintf(&out, "%s: %s\r\n", name, value)
			}
		}
	}
	out.WriteString("\r\n")
	return out.String()
}

// expressible reports whether HTTP/1.1 can carry the request at all: a line
// break would end a path, and blanks around a value are not part of it.
func (r request) expressible() bool {
	for _, header := range []map[string][]string{r.Header, r.Headers} {
		for _, values := range header {
			for _, value := range values {
				if strings.Trim(value, " \t") != value {
					return false
				}
			}
		}
	}
	return !strings.ContainsAny(r.Path, "\r\n")
}

// An answer is what came back, and what the application saw, if anything.
type answer struct {
	Status   int
	Location string
	Seen     *sight
}

// A sight is a request as an application saw it.
type sight struct {
	Server string
	Method string
	Target string
	Header textproto.MIMEHeader
}

// seenHeader carries a sight in an application's answer.
const seenHeader = "X-Seen"

// ask sends r over a fresh connection and waits for the answer.
func (r request) ask(dial func() (net.Conn, error)) (answer, error) {
	c, err := dial()
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, r.wire()); err != nil {
		return answer{}, fmt.Errorf("send the request: %w", err)
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return answer{}, fmt.Errorf("read the answer: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	out := answer{Status: res.StatusCode, Location: res.Header.Get("Location")}
	if text := res.Header.Get(seenHeader); text != "" {
		content, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return answer{}, fmt.Errorf("decode what the application saw: %w", err)
		}
		out.Seen = &sight{}
		if err := json.Unmarshal(content, out.Seen); err != nil {
			return answer{}, fmt.Errorf("decode what the application saw: %w", err)
		}
	}
	return out, nil
}

// rawApp answers HTTP/1.1 requests with what it saw of them, without the
// opinions of net/http on paths. It speaks TLS when config is not nil, and ends
// with the test.
func rawApp(t *testing.T, name string, config *tls.Config) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				if config != nil {
					serveRaw(tls.Server(c, config), name)
				} else {
					serveRaw(c, name)
				}
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr()
}

// serveRaw answers the requests of one connection until something of it fails.
func serveRaw(c net.Conn, name string) {
	lines := bufio.NewReader(c)
	for {
		saw, err := readSight(lines)
		if err != nil {
			return
		}
		saw.Server = name
		text, err := json.Marshal(saw)
		if err != nil {
			return
		}
		_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n%s: %s\r\n\r\n", seenHeader, base64.StdEncoding.EncodeToString(text))
		if err != nil {
			return
		}
	}
}

// readSight reads a request whose body, if any, has its length declared.
func readSight(lines *bufio.Reader) (sight, error) {
	reader := textproto.NewReader(lines)
	first, err := reader.ReadLine()
	if err != nil {
		return sight{}, err
	}
	method, rest, _ := strings.Cut(first, " ")
	target, ok := strings.CutSuffix(rest, " HTTP/1.1")
	if !ok {
		return sight{}, fmt.Errorf("request line %q", first)
	}
	header, err := reader.ReadMIMEHeader()
	if err != nil {
		return sight{}, err
	}
	header.Del("X-Forwarded-Client-Cert") // long, and of no interest here
	if length := header.Get("Content-Length"); length != "" {
		n, err := strconv.ParseInt(length, 10, 32)
		if err != nil {
			return sight{}, err
		}
		if _, err := io.CopyN(io.Discard, lines, n); err != nil {
			return sight{}, err
		}
	}
	return sight{Method: method, Target: target, Header: header}, nil
}

// leafOf asks Consul for a leaf of a service, whoever asks.
func leafOf(t *testing.T, consul *realserver.Consul, name string) tls.Certificate {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+consul.Addr+"/v1/agent/connect/ca/leaf/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	if err := json.NewDecoder(res.Body).Decode(&leaf); err != nil {
		t.Fatalf("leaf of %s: %s: %v", name, res.Status, err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		t.Fatalf("leaf of %s: %v", name, err)
	}
	return pair
}

// dialPlain connects to a local listener.
func dialPlain(port int) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		return net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	}
}

// dialAs connects to a sidecar's inbound listener as a service of the mesh.
func dialAs(leaf tls.Certificate, port int) func() (net.Conn, error) {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{leaf}, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // who answers is not what these tests are about
	}}
	return func() (net.Conn, error) {
		return dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}
}

// native registers an instance of a service that speaks the mesh's TLS itself
// and answers with what it saw. version is in its metadata and before its name,
// unless empty.
func native(t *testing.T, consul *realserver.Consul, name, version string) {
	t.Helper()
	id := strings.TrimPrefix(version+"."+name, ".")
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{leafOf(t, consul, name)}, ClientAuth: tls.RequireAnyClientCert,
	}
	port := rawApp(t, id, config).(*net.TCPAddr).Port
	put(t, consul, "/v1/agent/service/register", fmt.Sprintf(
		`{"ID":%q,"Name":%q,"Address":"127.0.0.1","Port":%d,"Meta":{"version":%q},"Connect":{"Native":true}}`, id, name, port, version))
}
