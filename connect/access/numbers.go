// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"strconv"
	"time"

	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/request"
)

// number appends a number, if there is one.
func number(of func(r *flow.Record) (int64, bool)) ask {
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		n, ok := of(r)
		if !ok {
			return dst, false
		}
		return strconv.AppendInt(dst, n, 10), true
	}
}

// numbers are the commands that yield one; nil for others.
func numbers(name string) ask {
	switch name {
	case "RESPONSE_CODE":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.Status), true })
	case "BYTES_RECEIVED":
		return number(func(r *flow.Record) (int64, bool) { return r.Sent, true })
	case "BYTES_SENT":
		return number(func(r *flow.Record) (int64, bool) { return r.Received, true })
	case "DURATION":
		return number(func(r *flow.Record) (int64, bool) { return r.Duration.Milliseconds(), true })
	case "RESPONSE_DURATION":
		return number(func(r *flow.Record) (int64, bool) { return r.FirstByte.Milliseconds(), r.FirstByte > 0 })
	case "RESPONSE_TX_DURATION":
		return number(func(r *flow.Record) (int64, bool) { return (r.Duration - r.FirstByte).Milliseconds(), r.FirstByte > 0 })
	case "UPSTREAM_REQUEST_ATTEMPT_COUNT":
		return number(attempts)
	case "DOWNSTREAM_REMOTE_PORT", "DOWNSTREAM_DIRECT_REMOTE_PORT":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.Downstream.Port()), r.Downstream.IsValid() })
	case "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_DIRECT_LOCAL_PORT":
		return number(func(r *flow.Record) (int64, bool) {
			return int64(r.DownstreamLocal.Port()), r.DownstreamLocal.IsValid()
		})
	case "UPSTREAM_LOCAL_PORT":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.UpstreamLocal.Port()), r.UpstreamLocal.IsValid() })
	case "UPSTREAM_REMOTE_PORT":
		return number(func(r *flow.Record) (int64, bool) {
			_, port := splitEndpoint(r.Endpoint)
			n, err := strconv.ParseUint(port, 10, 16)
			return int64(n), err == nil
		})
	case "GRPC_STATUS_NUMBER":
		return number(grpcNumber)
	}
	return nil
}

func attempts(r *flow.Record) (int64, bool) {
	if len(r.Tries) == 0 && r.Endpoint == "" {
		return 0, true
	}
	return int64(r.Retries) + 1, true
}

func grpcNumber(r *flow.Record) (int64, bool) {
	n, err := strconv.ParseUint(r.GRPCStatus, 10, 31)
	return int64(n), err == nil
}

// grpcStatus compiles GRPC_STATUS, whose argument says how the status is written
// (names of the status codes of gRPC).
func grpcStatus(c request.Command) operator {
	if c.Args == "NUMBER" {
		return operator{ask: number(grpcNumber), number: c.Limit == 0, limit: c.Limit}
	}
	if c.Args != "" && c.Args != "CAMEL_STRING" && c.Args != "SNAKE_STRING" {
		return operator{}
	}
	snake := c.Args == "SNAKE_STRING"
	camels := [...]string{
		"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied", "ResourceExhausted",
		"FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated",
	}
	snakes := [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	return operator{limit: c.Limit, ask: func(dst []byte, r *flow.Record) ([]byte, bool) {
		n, ok := grpcNumber(r)
		switch {
		case !ok || n >= int64(len(camels)):
			return append(dst, r.GRPCStatus...), r.GRPCStatus != ""
		case snake:
			return append(dst, snakes[n]...), true
		}
		return append(dst, camels[n]...), true
	}}
}

// A point is a moment of a request, in Envoy's words.
func point(name string) func(r *flow.Record) (time.Duration, bool) {
	switch name {
	case "DS_RX_BEG":
		return func(*flow.Record) (time.Duration, bool) { return 0, true }
	case "US_RX_BEG", "DS_TX_BEG":
		return func(r *flow.Record) (time.Duration, bool) { return r.FirstByte, r.FirstByte > 0 }
	case "DS_TX_END":
		return func(r *flow.Record) (time.Duration, bool) { return r.Duration, r.Kind == flow.Request }
	}
	return nil
}

// common compiles COMMON_DURATION(FROM:TO:PRECISION), between points that are
// recorded.
func common(c request.Command) operator {
	names, precision := cutLast(c.Args, ':')
	first, second := cutLast(names, ':')
	from, to := point(first), point(second)
	unit, known := map[string]time.Duration{"ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}[precision]
	if from == nil || to == nil || !known || c.Limit > 0 {
		return operator{}
	}
	return operator{number: true, ask: number(func(r *flow.Record) (int64, bool) {
		a, began := from(r)
		b, ended := to(r)
		return int64((b - a) / unit), began && ended && b >= a
	})}
}
