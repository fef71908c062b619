// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"fmt"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// The wait before another try grows from the first to the second (Envoy, router
// filter: retry back-off).
const (
	baseBackoff = 25 * time.Millisecond
	maxBackoff  = 10 * baseBackoff
)

// A Failure is a try that ended without the head of a response.
type Failure uint8

// Every Failure.
const (
	ConnectFailure Failure = iota + 1 // no connection, or no TLS on it
	Reset                             // the connection or stream broke
	RefusedStream                     // HTTP/2 REFUSED_STREAM: not processed (RFC 9113, 8.7)
)

// Retry says when a try is made again. The zero value says never.
type Retry struct {
	attempts int
	on       condition
	statuses []int
}

// A condition is a set of words of retry_on.
type condition uint16

const (
	on5xx condition = 1 << iota
	onGatewayError
	onReset
	onConnectFailure
	onRateLimited
	onRetriable4xx
	onRefusedStream
	onCancelled
	onDeadlineExceeded
	onInternal
	onResourceExhausted
	onUnavailable
)

// conditionOf reads a word of retry_on; 0 when there is no such word (Consul,
// service-router: retry_on).
func conditionOf(word string) condition {
	switch word {
	case "5xx":
		return on5xx
	case "gateway-error":
		return onGatewayError
	case "reset":
		return onReset
	case "connect-failure":
		return onConnectFailure
	case "envoy-ratelimited":
		return onRateLimited
	case "retriable-4xx":
		return onRetriable4xx
	case "refused-stream":
		return onRefusedStream
	case "cancelled":
		return onCancelled
	case "deadline-exceeded":
		return onDeadlineExceeded
	case "internal":
		return onInternal
	case "resource-exhausted":
		return onResourceExhausted
	case "unavailable":
		return onUnavailable
	}
	return 0
}

// compileRetry returns the retry and a warning for each word that is unknown.
func compileRetry(in connect.Retry) (Retry, []string) {
	out := Retry{statuses: in.StatusCodes}
	var warnings []string
	for _, word := range in.On {
		c := conditionOf(word)
		if c == 0 {
			warnings = append(warnings, fmt.Sprintf("retry_on %q is not known and causes no retry", word))
		}
		out.on |= c
	}
	if in.ConnectFailure {
		out.on |= onConnectFailure
	}
	switch {
	case out.on == 0 && len(out.statuses) == 0:
		return Retry{}, warnings
	case in.Attempts > 0:
		out.attempts = in.Attempts
	default:
		out.attempts = 1
	}
	return out, warnings
}

// Attempts is how many tries may follow the first.
func (r Retry) Attempts() int { return r.attempts }

// Enabled reports whether anything causes another try.
func (r Retry) Enabled() bool { return r.attempts > 0 }

// OnStatus reports whether a response causes another try. grpcStatus is its
// grpc-status, from the header or from a response that is nothing but trailers;
// "" when it has none. h is its header, which may be nil. A response that says
// that a proxy limited its rate is tried again for envoy-ratelimited only, even
// where its status would be.
func (r Retry) OnStatus(status int, grpcStatus string, h connect.Header) bool {
	if len(h["X-Envoy-Ratelimited"]) > 0 {
		return r.on&onRateLimited != 0
	}
	switch {
	case r.on&on5xx != 0 && status >= 500 && status <= 599:
		return true
	case r.on&onGatewayError != 0 && (status == 502 || status == 503 || status == 504):
		return true
	case r.on&onRetriable4xx != 0 && status == 409:
		return true
	}
	return slices.Contains(r.statuses, status) || r.on&grpcCondition(grpcStatus) != 0
}

// grpcCondition names the word for a status code of gRPC.
func grpcCondition(status string) condition {
	switch status {
	case "1":
		return onCancelled
	case "4":
		return onDeadlineExceeded
	case "8":
		return onResourceExhausted
	case "13":
		return onInternal
	case "14":
		return onUnavailable
	}
	return 0
}

// OnFailure reports whether a failure causes another try. Any failure would be
// answered with 503, so 5xx and gateway-error mean all of them, as does reset.
func (r Retry) OnFailure(f Failure) bool {
	every := on5xx | onGatewayError | onReset
	switch f {
	case ConnectFailure:
		return r.on&(every|onConnectFailure) != 0
	case RefusedStream:
		return r.on&(every|onRefusedStream) != 0
	case Reset:
		return r.on&every != 0
	}
	return false
}

// Backoff is the wait before a try, counted from 1 for the first that is made
// again. rnd is random in [0, 1): the wait is anything up to 25 ms, twice that
// for each further try and 250 ms at most.
func (r Retry) Backoff(try int, rnd float64) time.Duration {
	limit := maxBackoff
	if try < 5 {
		limit = min(limit, baseBackoff<<max(0, try-1))
	}
	if !(rnd > 0) { // NaN too
		return 0
	}
	return time.Duration(min(rnd, 1) * float64(limit))
}
