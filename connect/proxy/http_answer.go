// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/outrider-mesh/outrider/connect"
)

// reasonHeader tells the caller why the proxy, and not the application,
// answered.
const reasonHeader = "X-Outrider-Reason"

// answer is a response of the proxy's own. Status and body are those of Envoy
// in a Consul mesh, so that monitoring written for it keeps working.
type answer struct {
	status int
	body   string
	reason connect.Reason
	grpc   int // the gRPC status; 0 means the one that goes with status
}

// The answers there are; functions, because nothing may change them.
func denied() answer {
	return answer{status: http.StatusForbidden, body: "RBAC: access denied", reason: connect.IntentionDenied}
}

func noRoute() answer {
	return answer{status: http.StatusNotFound, body: "no route", reason: connect.NoRoute}
}

func noEndpointUp() answer {
	return answer{status: http.StatusServiceUnavailable, body: "no healthy upstream", reason: connect.NoHealthyEndpoint}
}

func unreachable(reason connect.Reason, cause string) answer {
	return answer{status: http.StatusServiceUnavailable, body: "upstream connect error or disconnect/reset before headers. reset reason: " + cause, reason: reason}
}

func overflowed() answer {
	return answer{status: http.StatusServiceUnavailable, body: "upstream connect error or disconnect/reset before headers. reset reason: overflow", reason: connect.LimitExceeded}
}

func limited() answer {
	return answer{status: http.StatusTooManyRequests, body: "local_rate_limited", reason: connect.LimitExceeded}
}

func tooLarge() answer {
	return answer{status: http.StatusRequestEntityTooLarge, body: "Payload Too Large", reason: connect.LimitExceeded}
}

// overdue is a request whose caller waits no longer, which gRPC has a status of
// its own for: 4, deadline exceeded.
func overdue() answer {
	a := tooLate()
	a.grpc = 4
	return a
}

func tooLate() answer {
	return answer{status: http.StatusGatewayTimeout, body: "upstream request timeout", reason: connect.RequestTimeout}
}

func tooQuiet() answer {
	return answer{status: http.StatusRequestTimeout, body: "stream timeout", reason: connect.RequestTimeout}
}

func invalid(status int, body string) answer {
	return answer{status: status, body: body, reason: connect.RequestInvalid}
}

func unready(reason connect.Reason, why string) answer {
	return answer{status: http.StatusServiceUnavailable, body: why, reason: reason}
}

// refuse counts and logs why a request is not served, and says so to the caller.
func (x *exchange) refuse(a answer, about ...any) {
	about = append([]any{"listener", listenerName(x.c.upstream), "method", x.r.Method, "path", x.r.URL.Path}, about...)
	x.p.fail(&x.record, a.reason, "refused a request", append(about, "snapshot", x.version())...)
	x.reply(a)
}

func (x *exchange) version() uint64 {
	if x.rt == nil {
		return 0
	}
	return x.rt.version
}

// reply writes an answer, or, when a response is under way, ends it so that
// nobody takes what has come for all there is.
func (x *exchange) reply(a answer) {
	if x.sent {
		panic(http.ErrAbortHandler)
	}
	x.begin()
	h := x.w.Header()
	if !x.clear(restBefore) {
		h["Connection"] = []string{"close"}
		x.c.spent.Store(true)
	}
	h.Set(reasonHeader, string(a.reason))
	if a.reason == connect.LimitExceeded && a.status == http.StatusServiceUnavailable {
		h.Set("X-Envoy-Overloaded", "true")
	}
	if x.grpc {
		h.Set("Content-Type", "application/grpc")
		x.record.GRPCStatus = strconv.Itoa(cmp.Or(a.grpc, grpcStatus(a.status)))
		h.Set("Grpc-Status", x.record.GRPCStatus)
		h.Set("Grpc-Message", grpcMessage(a.body))
		x.answered(http.StatusOK)
		x.w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "text/plain")
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	x.answered(a.status)
	x.w.WriteHeader(a.status)
	if x.r.Method != http.MethodHead {
		n, _ := io.WriteString(x.w, a.body)
		x.downloadedBytes.Add(int64(n))
	}
}

// grpcStatus maps an HTTP status as Envoy does (gRPC, HTTP to gRPC status code
// mapping, with 504 as unavailable).
func grpcStatus(status int) int {
	switch status {
	case http.StatusBadRequest:
		return 13 // internal
	case http.StatusUnauthorized:
		return 16 // unauthenticated
	case http.StatusForbidden:
		return 7 // permission denied
	case http.StatusNotFound:
		return 12 // unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return 14 // unavailable
	}
	return 2 // unknown
}

// grpcMessage percent-encodes what a grpc-message may not hold (gRPC over
// HTTP/2: Status-Message).
func grpcMessage(text string) string {
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(text))
	for _, b := range []byte(text) {
		if b >= ' ' && b <= '~' && b != '%' {
			out = append(out, b)
			continue
		}
		out = append(out, '%', digits[b>>4], digits[b&15])
	}
	return string(out)
}

// ended answers a request whose context ended, with the reason for it.
func (x *exchange) ended(cause error) {
	switch {
	case errors.Is(cause, errDenied):
		x.withdrawn(cause)
		a := denied()
		a.reason = cmp.Or(x.record.Reason, a.reason)
		x.reply(a) // who withdrew the intention has counted it
	case errors.Is(cause, errCallerDeadline):
		x.refuse(overdue(), "why", cause)
	case errors.Is(cause, errRequestTimeout):
		x.refuse(tooLate())
	case errors.Is(cause, errIdleTimeout):
		x.refuse(tooQuiet())
	case errors.Is(cause, errLargeBody):
		x.refuse(tooLarge(), "limit", x.maxBody)
	case errors.Is(cause, errBadBody) && x.r.Context().Err() == nil && !x.sent:
		x.refuse(invalid(http.StatusBadRequest, http.StatusText(http.StatusBadRequest)), "error", cause)
	default:
		x.gone = true
		panic(http.ErrAbortHandler) // the caller has gone: nobody is left to answer
	}
}
