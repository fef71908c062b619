// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"net/http"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// A word is what Envoy calls one way of failing: its response flag, short and
// long, and its response code details.
type word struct{ flag, long, details string }

// said returns the word for what became of a record; ok is false when nothing
// went wrong here. A reason that the other side has given is its own matter: to
// this side the response is one of the upstream.
func said(r *flow.Record) (w word, ok bool) {
	switch {
	case r.Gone:
		return word{"DC", "DownstreamConnectionTermination", "downstream_remote_disconnect"}, true
	case r.Reason == "" || r.Remote:
		return word{}, false
	}
	w, ok = words(r)
	return w, ok
}

// words are those of each reason. There is no Envoy behind them, so they are the
// nearest of what dashboards and alerts made for Envoy know.
func words(r *flow.Record) (word, bool) {
	switch r.Reason {
	case connect.IntentionDenied:
		return word{"UAEX", "UnauthorizedExternalService", "rbac_access_denied_matched_policy[none]"}, true
	case connect.JWTInvalid:
		return word{"UAEX", "UnauthorizedExternalService", "jwt_authn_access_denied"}, true
	case connect.NoRoute:
		return word{"NR", "NoRouteFound", "route_not_found"}, true
	case connect.NoHealthyEndpoint:
		return word{"UH", "NoHealthyUpstream", "no_healthy_upstream"}, true
	case connect.TLSFailed, connect.IdentityMismatch:
		if r.Direction == flow.Inbound {
			return word{"DPE", "DownstreamProtocolError", "downstream_transport_failure"}, true
		}
		return word{"UF", "UpstreamConnectionFailure", "upstream_reset_before_response_started{remote_connection_failure|TLS_error}"}, true
	case connect.ConnectFailed, connect.AppUnreachable:
		return word{"UF", "UpstreamConnectionFailure", "upstream_reset_before_response_started{remote_connection_failure}"}, true
	case connect.ConnectTimeout:
		return word{"UF", "UpstreamConnectionFailure", "upstream_reset_before_response_started{connection_timeout}"}, true
	case connect.RequestTimeout:
		if r.Status == http.StatusRequestTimeout || r.Kind == flow.Connection {
			return word{"SI", "StreamIdleTimeout", "stream_idle_timeout"}, true
		}
		return word{"UT", "UpstreamRequestTimeout", "response_timeout"}, true
	case connect.StreamReset:
		if r.FirstByte > 0 && r.Status < http.StatusInternalServerError {
			return word{"UC", "UpstreamConnectionTermination", "upstream_reset_after_response_started{connection_termination}"}, true
		}
		return word{"UC", "UpstreamConnectionTermination", "upstream_reset_before_response_started{connection_termination}"}, true
	case connect.LimitExceeded:
		return limited(r), true
	case connect.RequestInvalid:
		return word{"DPE", "DownstreamProtocolError", "downstream_protocol_error"}, true
	case connect.Draining:
		return word{"LR", "LocalReset", "local_reset"}, true
	case connect.NotReady:
		return word{"NC", "NoClusterFound", "cluster_not_found"}, true
	}
	return word{}, false
}

// limited tells the limits apart.
func limited(r *flow.Record) word {
	switch {
	case r.Direction == flow.Outbound || r.Direction == flow.Passed:
		return word{"UO", "UpstreamOverflow", "upstream_reset_before_response_started{overflow}"}
	case r.Status == http.StatusTooManyRequests:
		return word{"RL", "RateLimited", "local_rate_limited"}
	case r.Status == http.StatusRequestEntityTooLarge:
		return word{"DPE", "DownstreamProtocolError", "request_payload_too_large"}
	}
	return word{"OM", "OverloadManagerTerminated", "overload"}
}

// flags appends the response flags, short or long; "-" for none.
func flags(long bool) func([]byte, *flow.Record) ([]byte, bool) {
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		w, ok := said(r)
		retried := r.Retries > 0 && (w.flag == "UF" || w.flag == "UC" || w.flag == "UT")
		switch {
		case !ok:
			return append(dst, '-'), true
		case long && retried:
			return append(append(dst, w.long...), ",UpstreamRetryLimitExceeded"...), true
		case long:
			return append(dst, w.long...), true
		case retried:
			return append(append(dst, w.flag...), ",URX"...), true
		}
		return append(dst, w.flag...), true
	}
}

// details appends why a request was answered as it was.
func details(dst []byte, r *flow.Record) ([]byte, bool) {
	w, failed := said(r)
	switch {
	case r.Kind != flow.Request:
		return dst, false
	case failed:
		return append(dst, w.details...), true
	case r.Status == 0:
		return dst, false
	case r.Endpoint == "":
		return append(dst, "direct_response"...), true
	}
	return append(dst, "via_upstream"...), true
}

// termination appends why a connection was ended: only for denied ones, as in
// Envoy.
func termination(dst []byte, r *flow.Record) ([]byte, bool) {
	if r.Kind != flow.Connection || r.Reason != connect.IntentionDenied {
		return dst, false
	}
	return append(dst, "rbac_access_denied_matched_policy[none]"...), true
}

// transportFailure appends in words why TLS or the connection with one side
// failed.
func transportFailure(upstream bool) func(dst []byte, r *flow.Record) ([]byte, bool) {
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		switch r.Reason {
		case connect.TLSFailed, connect.IdentityMismatch:
			if (r.Direction != flow.Inbound) != upstream {
				return dst, false
			}
		case connect.ConnectFailed, connect.ConnectTimeout, connect.AppUnreachable:
			if !upstream {
				return dst, false
			}
		default:
			return dst, false
		}
		if r.Remote {
			return dst, false
		}
		if n := len(r.Tries); upstream && n > 0 && r.Tries[n-1].Error != "" {
			return append(dst, r.Tries[n-1].Error...), true
		}
		return append(dst, r.Why...), r.Why != ""
	}
}
