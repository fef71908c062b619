// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// The times of blocking queries, as Consul documents them.
const (
	defaultWait = 5 * time.Minute
	maxWait     = 10 * time.Minute
	jitterShare = 16 // up to wait/16 is added, so that many clients do not come back at once
)

// An answer is the outcome of a query at one moment.
type answer struct {
	index   uint64        // of the last change it could depend on; rises only
	value   any           // encoded while the state is locked
	missing string        // unless empty: answered 404 with this text instead
	again   time.Duration // unless zero: the answer may change by itself by then
}

// A result is an answer ready to be sent.
type result struct {
	answer
	body    []byte
	changed <-chan struct{}
}

// block answers a query that Consul documents as blocking. Without an index it
// answers at once. With one, it answers when there is something newer: at once
// if the result's index is beyond the client's already, else when the result
// itself has changed or the wait time is over. A change elsewhere, and a change
// that is taken back, wake nobody. The query runs with the state locked.
func (s *Server) block(w http.ResponseWriter, r *http.Request, query func(*state) (answer, error)) error {
	after, wait, err := blockingParams(r)
	if err != nil {
		return err
	}
	run := func() (result, error) { return s.state.run(query) }
	seen, err := run()
	if err != nil {
		return err
	}
	if after > 0 && seen.index <= after {
		seen, err = await(r, wait, seen, run, func(now result) bool {
			return now.index > after && !sameAnswer(now, seen)
		})
		if err != nil {
			return err
		}
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(max(1, seen.index), 10))
	w.Header().Set("X-Consul-Knownleader", "true")
	w.Header().Set("X-Consul-Lastcontact", "0")
	if seen.missing != "" {
		return fail(http.StatusNotFound, "%s", seen.missing)
	}
	send(w, seen.body)
	return nil
}

// await asks again at every change until done says so or the time is over, and
// returns the latest result.
func await(r *http.Request, wait time.Duration, last result, run func() (result, error), done func(result) bool) (result, error) {
	timeout := time.NewTimer(wait + rand.N(wait/jitterShare+1)) //nolint:gosec // spreads load
	defer timeout.Stop()
	for {
		select {
		case <-last.changed:
		case <-later(last.again):
		case <-timeout.C:
			return run()
		case <-r.Context().Done():
			// Nobody waits for an answer: it must not look like one.
			panic(http.ErrAbortHandler)
		}
		now, err := run()
		if err != nil || done(now) {
			return now, err
		}
		last = now
	}
}

// later is a timer, or nothing for zero.
func later(d time.Duration) <-chan time.Time {
	if d <= 0 {
		return nil
	}
	return time.After(d)
}

func sameAnswer(a, b result) bool {
	return a.missing == b.missing && bytes.Equal(a.body, b.body)
}

// run makes a result with the state locked.
func (st *state) run(query func(*state) (answer, error)) (result, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	a, err := query(st)
	if err != nil {
		return result{}, err
	}
	body, err := json.Marshal(a.value)
	if err != nil {
		return result{}, fmt.Errorf("encode the answer: %w", err)
	}
	return result{answer: a, body: body, changed: st.changed}, nil
}

func blockingParams(r *http.Request) (index uint64, wait time.Duration, err error) {
	query := r.URL.Query()
	wait = defaultWait
	if text := query.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil {
			return 0, 0, fail(http.StatusBadRequest, "Invalid wait time")
		}
	}
	if text := query.Get("index"); text != "" {
		if index, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, 0, fail(http.StatusBadRequest, "Invalid index")
		}
	}
	if wait <= 0 {
		wait = defaultWait
	}
	return index, min(wait, maxWait), nil
}
