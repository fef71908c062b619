// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Envoy's defaults, which Consul documents as its own (service-defaults:
// passive_health_check). Those of the success rate cannot be set through Consul.
const (
	defaultMaxFailures  = 5
	defaultMaxEjection  = 10
	defaultBaseEjection = 30 * time.Second
	maxEjection         = 300 * time.Second
	defaultInterval     = 10 * time.Second
	maxInterval         = time.Hour // keeps a window's counts far from their 32 bits

	rateEndpoints = 5   // that have a rate, or nobody is judged
	rateRequests  = 100 // of an endpoint in a window, or it has no rate
	rateDeviation = 1.9 // standard deviations below the mean
)

// An Outcome is how a request to an endpoint ended.
type Outcome int

// The outcomes. What the caller of the request did wrong is a Success: the
// endpoint answered. So is every status below 500.
const (
	Success      Outcome = iota
	ServerError          // the endpoint answered with a 5xx
	LocalFailure         // no answer: connect or TLS failed, or the stream was reset
)

// outlier is the rule of ejection of one group.
type outlier struct {
	maxFailures int32
	enforcing   int // percent of rows of failures; the success rate has no such setting in Consul
	limit       int // endpoints of the group that may be out at once
	base        time.Duration
	interval    time.Duration
	history     *history
}

// history is what the groups of one key share, since the runtime of an old
// snapshot serves its last requests beside the new one.
type history struct {
	ejecting  sync.Mutex   // so that two that fail at once cannot both be the last allowed out
	windowEnd atomic.Int64 // unix nanoseconds; 0 before the first observation
}

func (o *outlier) init(h connect.PassiveHealth, endpoints int, fallback bool) {
	o.maxFailures = int32(min(math.MaxInt32, orDefault(h.MaxFailures, defaultMaxFailures))) //nolint:gosec // bounded
	o.enforcing = orDefault(h.Enforcing, 100)
	o.limit = max(1, endpoints*min(100, orDefault(h.MaxEjectionPercent, defaultMaxEjection))/100)
	o.base = defaultBaseEjection
	if h.BaseEjectionTime > 0 {
		o.base = min(maxEjection, h.BaseEjectionTime)
	}
	o.interval = defaultInterval
	if h.Interval > 0 {
		o.interval = min(maxInterval, h.Interval)
	}
	if !fallback {
		o.limit = min(o.limit, endpoints-1)
	}
}

func orDefault(n, fallback int) int {
	if n == 0 {
		return fallback
	}
	return n
}

// Succeeded records that an endpoint of the group could be connected to.
func (g *Group) Succeeded(e *Entry) {
	// Nearly always there is nothing to forget; a write would take the cache
	// line from everybody else.
	if e.State.failures.Load() != 0 {
		e.State.failures.Store(0)
	}
}

// Failed records a failed connect or handshake, with its cause in words, and
// reports whether the endpoint was ejected for it: after so many failures in a
// row, for the base time times the number of its ejections so far, at most
// 300 s, while no more than the allowed share of the group is out. What fails
// while the endpoint is ejected began before and counts for nothing.
func (g *Group) Failed(e *Entry, now time.Time, cause string) (ejected bool) {
	e.State.Blame(cause)
	return g.failed(e, now)
}

func (g *Group) failed(e *Entry, now time.Time) (ejected bool) {
	s := e.State
	if s.Ejected(now) || s.failures.Add(1) < g.outlier.maxFailures {
		return false
	}
	if rand.IntN(100) >= g.outlier.enforcing {
		s.failures.Store(0) // this row is forgiven, or a percentage would only delay
		return false
	}
	return g.eject(e, now)
}

// Observe records how a request to an endpoint of the group ended, and after
// what time: to the headers of its answer, or to its failure. It returns the
// endpoints that were ejected for it, nearly always none.
//
// Failures in a row eject as in [Group.Failed]; 5xx and missing answers are one
// row (Envoy, outlier detection: consecutive 5xx includes locally originated
// errors). Besides, when a window of the passive health check's interval has
// passed, endpoints with too low a rate of success in it are ejected, which may
// be others than e; [State.LastFailure] then tells the rates.
func (g *Group) Observe(e *Entry, now time.Time, took time.Duration, outcome Outcome) (ejected []*Entry) {
	if g.policy == peakEWMA {
		e.State.latency.observe(now, took, outcome != Success)
	}
	ejected = g.closeWindow(now)
	e.State.window.add(outcome == Success)
	if outcome == Success {
		g.Succeeded(e)
	} else if g.failed(e, now) {
		ejected = append(ejected, e)
	}
	return ejected
}

// closeWindow judges the window that has ended at now, in the one caller that
// is first to see it. No timer runs: without requests there is nothing to
// judge, and a window that ended more than a window ago says nothing about now.
func (g *Group) closeWindow(now time.Time) (ejected []*Entry) {
	end, at := g.outlier.history.windowEnd.Load(), now.UnixNano()
	// One that ends too far ahead was set before a clock went back.
	if at < end && end-at <= int64(maxInterval) {
		return nil
	}
	next := at + int64(g.outlier.interval)
	if !g.outlier.history.windowEnd.CompareAndSwap(end, next) {
		return nil
	}
	rates := g.takeRates(now)
	if at < end || at-end > int64(g.outlier.interval) || len(rates) < rateEndpoints {
		return nil
	}
	mean, least := threshold(rates)
	for _, r := range rates {
		if r.rate < least && g.eject(r.entry, now) {
			r.entry.State.Blame(fmt.Sprintf("success rate of %.1f%% is far below the mean of %.1f%%", 100*r.rate, 100*mean))
			ejected = append(ejected, r.entry)
		}
	}
	return ejected
}

// rate is the share of successes of one endpoint in one window, 0 … 1.
type rate struct {
	entry *Entry
	rate  float64
}

// takeRates empties all tallies and returns the rates that mean something.
func (g *Group) takeRates(now time.Time) []rate {
	rates := make([]rate, 0, len(g.entries))
	for i := range g.entries {
		e := &g.entries[i]
		requests, successes := e.State.window.take()
		if requests >= rateRequests && !e.State.Ejected(now) {
			rates = append(rates, rate{e, float64(successes) / float64(requests)})
		}
	}
	return rates
}

// threshold returns the mean of the rates and the rate below which an endpoint
// is an outlier.
func threshold(rates []rate) (mean, least float64) {
	for _, r := range rates {
		mean += r.rate
	}
	mean /= float64(len(rates))
	var variance float64
	for _, r := range rates {
		variance += (r.rate - mean) * (r.rate - mean)
	}
	return mean, mean - rateDeviation*math.Sqrt(variance/float64(len(rates)))
}

// eject takes the endpoint out if the limit of the group allows one more.
func (g *Group) eject(e *Entry, now time.Time) bool {
	g.outlier.history.ejecting.Lock()
	defer g.outlier.history.ejecting.Unlock()
	s := e.State
	if s.Ejected(now) || g.out(now) >= g.outlier.limit {
		return false
	}
	if now.Sub(s.EjectedUntil()) > maxEjection {
		s.ejections.Store(0)
	}
	n := s.ejections.Add(1)
	s.failures.Store(0)
	s.ejectedUntil.Store(now.Add(min(maxEjection, time.Duration(n)*g.outlier.base)).UnixNano())
	return true
}

func (g *Group) out(now time.Time) int {
	n := 0
	for i := range g.entries {
		if g.entries[i].State.Ejected(now) {
			n++
		}
	}
	return n
}
