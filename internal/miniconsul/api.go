// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strings"
	"time"
)

// maxBody bounds a request's body, in bytes: far above any definition or
// config entry of a mesh on one machine.
const maxBody = 1 << 20

// A handler answers one request or returns an error, which becomes the answer.
type handler func(w http.ResponseWriter, r *http.Request) error

// A httpError is an answer in plain text, as Consul's are.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

func fail(status int, format string, args ...any) error {
	return &httpError{status: status, text: fmt.Sprintf(format, args...)}
}

// refuse is an error in the words that Consul has for it, where it has some:
// people look them up.
func refuse(format string, args ...any) error { return fmt.Errorf(format, args...) }

// routes lists everything the server does; what is not here is answered 404.
func (s *Server) routes() *http.ServeMux {
	const get, put, del, post = http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodPost
	mux := http.NewServeMux()
	for pattern, methods := range map[string]map[string]handler{
		"/v1/status/leader":      {get: s.getLeader},
		"/v1/agent/self":         {get: s.getSelf},
		"/v1/agent/services":     {get: s.getServices},
		"/v1/agent/checks":       {get: s.getChecks},
		"/v1/catalog/services":   {get: s.getCatalog},
		"/v1/health/node/{id}":   {get: s.getNodeHealth},
		"/v1/agent/service/{id}": {get: s.getService},

		"/v1/agent/service/register":         {put: s.putService},
		"/v1/agent/service/deregister/{id}":  {put: s.deleteService},
		"/v1/agent/service/maintenance/{id}": {put: s.putMaintenance},
		"/v1/agent/check/update/{id}":        {put: s.putCheck},
		"/v1/agent/check/pass/{id}":          {put: s.setCheck(passing)},
		"/v1/agent/check/warn/{id}":          {put: s.setCheck(warning)},
		"/v1/agent/check/fail/{id}":          {put: s.setCheck(critical)},

		"/v1/agent/connect/ca/roots":          {get: s.getRoots},
		"/v1/connect/ca/roots":                {get: s.getRoots},
		"/v1/agent/connect/ca/leaf/{service}": {get: s.getLeaf},
		"/v1/connect/ca/configuration":        {get: s.getCAConfig, put: s.putCAConfig},

		"/v1/connect/intentions":       {get: s.getIntentions},
		"/v1/connect/intentions/exact": {get: s.getIntention, put: s.putIntention, del: s.deleteIntention},
		"/v1/connect/intentions/match": {get: s.matchIntentions},
		"/v1/connect/intentions/check": {get: s.checkIntention},

		"/v1/config":                    {put: s.putEntry},
		"/v1/config/{kind}":             {get: s.getEntries},
		"/v1/config/{kind}/{name}":      {get: s.getEntry, del: s.deleteEntry},
		"/v1/discovery-chain/{service}": {get: s.getChain, post: s.getChain},

		"/v1/health/connect/{service}": {get: s.getHealth(true)},
		"/v1/health/service/{service}": {get: s.getHealth(false)},
	} {
		mux.Handle(pattern, s.dispatch(methods))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusNotFound, "Invalid URL path: not a recognized HTTP API endpoint\n")
	})
	return mux
}

// serve is the door. The name in the Host header must be this machine's: a web
// page in a browser on it can send requests here, and must not be able to read
// the answers by pointing a name of its own to loopback (DNS rebinding).
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !local(r) {
		plain(w, http.StatusForbidden, "the embedded control plane answers only to the name of this machine: call it by its loopback address")
		return
	}
	policy := "deny"
	if s.opts.DefaultAllow {
		policy = "allow"
	}
	w.Header().Set("X-Consul-Default-Acl-Policy", policy)
	s.mux.ServeHTTP(w, r)
}

func local(r *http.Request) bool {
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && addr.Network() == "unix" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback())
}

// dispatch calls the handler of a request's method and writes its error.
func (s *Server) dispatch(methods map[string]handler) http.Handler {
	allowed := []string{http.MethodOptions}
	for method := range methods {
		allowed = append(allowed, method)
	}
	sort.Strings(allowed[1:])
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handle, ok := methods[r.Method]
		if !ok {
			w.Header().Set("Allow", strings.Join(allowed, ","))
			plain(w, http.StatusMethodNotAllowed, fmt.Sprintf("method %s not allowed", r.Method))
			return
		}
		err := handle(w, r)
		if err == nil {
			return
		}
		status := http.StatusInternalServerError
		if e := (*httpError)(nil); errors.As(err, &e) {
			status = e.status
		}
		s.logger.Debug("request refused", "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
		plain(w, status, err.Error())
	})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) //nolint:gosec // text/plain, and nosniff keeps it that
}

// reply writes a value as JSON.
func reply(w http.ResponseWriter, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	send(w, body)
	return nil
}

func send(w http.ResponseWriter, body []byte) {
	// A client that does not read must not keep the answer alive.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readTimeout))
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client's loss
}

// receive reads a body of at most maxBody bytes.
func receive(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = control.SetReadDeadline(time.Time{})
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, fail(http.StatusRequestEntityTooLarge, "Request body too large: at most %d bytes are accepted", maxBody)
	}
	if err != nil {
		return nil, fail(http.StatusBadRequest, "Request decode failed: %v", err)
	}
	return body, nil
}

// required returns a query parameter that must be there.
func required(r *http.Request, name string) (string, error) {
	value := r.URL.Query().Get(name)
	if value == "" {
		return "", fmt.Errorf("required query parameter '%s' not set", name)
	}
	return value, nil
}
