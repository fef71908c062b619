// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"strconv"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// deadlineHeader tells the next one how many milliseconds the caller still
// waits. gRPC has its own (gRPC over HTTP/2: Timeout).
const (
	deadlineHeader = "X-Outrider-Deadline-Ms"
	grpcTimeout    = "Grpc-Timeout"
)

// heedDeadline answers a request at once whose caller has given up, and bounds
// any other by what its caller has left. Whoever waits longer than that waits
// for nobody.
func (x *exchange) heedDeadline(head *connect.Head) bool {
	left, set := deadlineOf(head.Header)
	if !set {
		return true
	}
	if left <= 0 {
		x.refuse(overdue(), "why", "its deadline had passed when it came")
		return false
	}
	x.timers.deadline(left)
	x.due = x.began.Add(left)
	return true
}

// passDeadline writes what is left for the next one.
func (x *exchange) passDeadline(h connect.Header) {
	if x.due.IsZero() {
		return
	}
	left := max(time.Until(x.due), 0)
	if _, ok := h[deadlineHeader]; ok {
		h[deadlineHeader] = []string{strconv.FormatInt(left.Milliseconds(), 10)}
	}
	if _, ok := h[grpcTimeout]; ok {
		h[grpcTimeout] = []string{formatGRPCTimeout(left)}
	}
}

// deadlineOf is the shorter of what the two headers say. One that cannot be
// read is none: a deadline only ever shortens.
func deadlineOf(h connect.Header) (left time.Duration, set bool) {
	if text, ok := h.Lookup(deadlineHeader); ok {
		if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms < maxDeadline.Milliseconds() {
			left, set = time.Duration(max(ms, 0))*time.Millisecond, true
		}
	}
	if text, ok := h.Lookup(grpcTimeout); ok {
		if d, ok := parseGRPCTimeout(text); ok && (!set || d < left) {
			left, set = d, true
		}
	}
	return left, set
}

// maxDeadline is longer than anybody waits; more counts as none.
const maxDeadline = 365 * 24 * time.Hour

// parseGRPCTimeout reads at most eight digits and a unit.
func parseGRPCTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	unit, ok := grpcUnit(text[len(text)-1])
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if !ok || err != nil || time.Duration(n) > maxDeadline/unit {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

func grpcUnit(b byte) (time.Duration, bool) {
	switch b {
	case 'H':
		return time.Hour, true
	case 'M':
		return time.Minute, true
	case 'S':
		return time.Second, true
	case 'm':
		return time.Millisecond, true
	case 'u':
		return time.Microsecond, true
	case 'n':
		return time.Nanosecond, true
	}
	return 0, false
}

// formatGRPCTimeout writes in the finest unit that eight digits have room for.
func formatGRPCTimeout(d time.Duration) string {
	const digits = 100_000_000
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"n", time.Nanosecond}, {"u", time.Microsecond}, {"m", time.Millisecond}, {"S", time.Second}, {"M", time.Minute}} {
		if d/u.size < digits {
			return strconv.FormatInt(int64(d/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d/time.Hour), 10) + "H"
}
