// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package fakevault stands in for Vault in tests: token, AppRole and JWT
// logins, token renewal, and a PKI engine, over connections in memory, so that
// it works inside a synctest bubble. It must not be used outside of tests: it
// keeps secrets in the open and forgives nothing that a test did not ask about.
package fakevault

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/meshca"
)

// Address is what a client under test is configured with.
const Address = "http://vault.test:8200"

// A Vault is one fake server. Its exported fields are set before Start.
type Vault struct {
	CA     *meshca.CA // signs leaves
	Parent *meshca.CA // signed CA; nil when CA is a root

	mu      sync.Mutex
	down    bool
	tokens  map[string]*token
	logins  map[string]Lease // by credentials
	roles   map[string]role
	refusal map[string]refusal // by path prefix
	seen    []Request
	serial  int
	dials   chan net.Conn
	done    chan struct{}
}

// A Request is what the fake was asked.
type Request struct {
	Path  string
	Token string
	Body  map[string]any
	At    time.Time
	// Status is that of the response.
	Status int
}

type refusal struct {
	status   int
	messages []string
}

// New returns a Vault that signs with ca, which parent signed; parent is nil
// when ca is a root.
func New(ca, parent *meshca.CA) *Vault {
	return &Vault{
		CA: ca, Parent: parent,
		tokens: map[string]*token{}, logins: map[string]Lease{}, roles: map[string]role{}, refusal: map[string]refusal{},
		dials: make(chan net.Conn), done: make(chan struct{}),
	}
}

// Start serves until the test ends.
func (v *Vault) Start(t testing.TB) {
	server := &http.Server{Handler: v, ReadHeaderTimeout: 10 * time.Second}
	server.SetKeepAlivesEnabled(false) // An outage must end every connection.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener{v}) // It always ends with ErrServerClosed.
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
}

// Dial connects to the fake as a transport's DialContext.
func (v *Vault) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	v.mu.Lock()
	down := v.down
	v.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	ours, theirs := net.Pipe()
	select {
	case v.dials <- theirs:
		return ours, nil
	case <-v.done:
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct{ v *Vault }

func (l listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.v.dials:
		return conn, nil
	case <-l.v.done:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error {
	l.v.mu.Lock()
	defer l.v.mu.Unlock()
	select {
	case <-l.v.done:
	default:
		close(l.v.done)
	}
	return nil
}

func (l listener) Addr() net.Addr { return &net.IPAddr{} }

// SetDown makes new connections fail, or work again.
func (v *Vault) SetDown(down bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.down = down
}

// Refuse answers requests whose path begins with prefix, without "/v1/", with a
// status and messages. Status 0 ends that.
func (v *Vault) Refuse(prefix string, status int, messages ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.refusal, prefix)
	if status != 0 {
		v.refusal[prefix] = refusal{status, messages}
	}
}

// Requests returns what was asked for so far, by path prefix.
func (v *Vault) Requests(prefix string) []Request {
	v.mu.Lock()
	defer v.mu.Unlock()
	var found []Request
	for _, r := range v.seen {
		if strings.HasPrefix(r.Path, prefix) {
			found = append(found, r)
		}
	}
	return found
}

// ServeHTTP answers as Vault does.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := map[string]any{}
	raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &body)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	req := Request{Path: strings.TrimPrefix(r.URL.Path, "/v1/"), Token: r.Header.Get("X-Vault-Token"), Body: body, At: time.Now()}
	status, answer := http.StatusBadRequest, failed("request is not JSON")
	if err == nil {
		status, answer = v.answer(req)
	}
	req.Status = status
	v.seen = append(v.seen, req)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // The client has gone; the test will see.
}

func (v *Vault) answer(r Request) (int, any) {
	for prefix, refusal := range v.refusal {
		if strings.HasPrefix(r.Path, prefix) {
			return refusal.status, failed(refusal.messages...)
		}
	}
	switch {
	case strings.HasPrefix(r.Path, "auth/") && strings.HasSuffix(r.Path, "/login"):
		return v.login(r)
	case r.Path == "auth/token/renew-self":
		return v.renew(r)
	case r.Path == "auth/token/lookup-self":
		return v.lookup(r)
	case strings.Contains(r.Path, "/sign/"):
		return v.sign(r)
	}
	return http.StatusNotFound, failed("no handler for route \"" + r.Path + "\". route entry not found.")
}

func failed(messages ...string) any { return map[string]any{"errors": messages} }
