// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A TokenStatus says how the source of the ACL token fares. It never holds the
// token.
type TokenStatus struct {
	Source      string    // `login at auth method "nomad-workloads"`, "token_file /etc/token"
	LastSuccess time.Time // zero: none yet, or not known
	Expires     time.Time // of the token in use; zero: never, or not known
	Failures    int       // consecutive
	Err         error     // nil when fine
}

// A source is where requests get their ACL token from.
type source interface {
	// current returns the token for the next request, "" for none. It may wait
	// for the first one, until ctx ends.
	current(ctx context.Context) (string, error)
	// unknown reports that Consul does not know a token that current returned.
	// It never blocks.
	unknown(token string)
	// run keeps the token fresh until ctx ends.
	run(ctx context.Context)
	// status is empty while there is nothing to tell.
	status() []TokenStatus
}

// A seat is the place of the token in use. Its source writes it; requests,
// watches and registrars look at it.
type seat struct {
	mu         sync.Mutex
	token      string
	generation uint64        // of the token; 0 before the first
	life       time.Duration // from its making to its end; 0: none, or not known
	next       chan struct{} // closed with the next generation
	services   map[string]bool
}

func newSeat() *seat { return &seat{next: make(chan struct{}), services: make(map[string]bool)} }

// take puts a token into the seat. The same one again changes nothing.
func (s *seat) take(token string, life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation != 0 && s.token == token {
		return
	}
	s.token, s.life = token, life
	s.generation++
	close(s.next)
	s.next = make(chan struct{})
}

func (s *seat) get() (token string, generation uint64, next <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token, s.generation, s.next
}

// changed returns a channel that is closed when another token is there.
func (s *seat) changed() <-chan struct{} {
	_, _, next := s.get()
	return next
}

// patience is how long a query may block: one that begins with a token just
// before it is replaced, at three quarters of its life, shall end before the
// token does. 0 sets no limit.
func (s *seat) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == 0 {
		return 0
	}
	return max(s.life/5, time.Second)
}

// hold tells whether a service is registered with a token of this seat: Consul's
// agent keeps the token of a registration, and publishes the health of the
// service with it.
func (s *seat) hold(serviceID string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.services[serviceID] = true
		return
	}
	delete(s.services, serviceID)
}

func (s *seat) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.services)
}

// aclNotFound is how Consul says that it does not know a token: deleted,
// expired, or never made. A token that lacks a permission gets another answer.
const aclNotFound = "ACL not found"

// unknownToken reports whether an answer says that the token does not exist. A
// server that was asked by the agent puts words before it.
func unknownToken(code int, body string) bool {
	if code != http.StatusForbidden && code != http.StatusUnauthorized {
		return false
	}
	body = strings.TrimSpace(body)
	return body == aclNotFound || strings.HasSuffix(body, ": "+aclNotFound)
}
