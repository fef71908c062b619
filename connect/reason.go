// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

// A Reason says why a connection or request was not served. The set is closed
// and the words are the same in logs, metrics, response headers and explain.
type Reason string

// Every Reason there is.
const (
	IntentionDenied   Reason = "intention_denied"
	JWTInvalid        Reason = "jwt_invalid"
	NoRoute           Reason = "no_route"
	NoHealthyEndpoint Reason = "no_healthy_endpoint"
	ConnectFailed     Reason = "connect_failed"
	ConnectTimeout    Reason = "connect_timeout"
	TLSFailed         Reason = "tls_failed"
	IdentityMismatch  Reason = "identity_mismatch"
	RequestTimeout    Reason = "request_timeout"
	StreamReset       Reason = "stream_reset"
	LimitExceeded     Reason = "limit_exceeded"
	RequestInvalid    Reason = "request_invalid"
	Draining          Reason = "draining"
	NotReady          Reason = "not_ready"
	AppUnreachable    Reason = "app_unreachable"
)

// Reasons returns every Reason, in a fixed order.
func Reasons() []Reason {
	return []Reason{
		IntentionDenied, JWTInvalid, NoRoute, NoHealthyEndpoint, ConnectFailed,
		ConnectTimeout, TLSFailed, IdentityMismatch, RequestTimeout, StreamReset,
		LimitExceeded, RequestInvalid, Draining, NotReady, AppUnreachable,
	}
}
