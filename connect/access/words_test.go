// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// told is what a line says of how it ended.
const told = "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %DYNAMIC_METADATA(outrider:reason)%"

func TestEveryReasonHasAFlagOfEnvoys(t *testing.T) {
	t.Parallel()
	flags := map[connect.Reason]string{
		connect.IntentionDenied: "UAEX", connect.JWTInvalid: "UAEX", connect.NoRoute: "NR", connect.NoHealthyEndpoint: "UH", connect.ConnectFailed: "UF",
		connect.ConnectTimeout: "UF", connect.TLSFailed: "UF", connect.IdentityMismatch: "UF", connect.RequestTimeout: "UT", connect.StreamReset: "UC",
		connect.LimitExceeded: "UO", connect.RequestInvalid: "DPE", connect.Draining: "LR", connect.NotReady: "NC", connect.AppUnreachable: "UF",
	}
	for _, reason := range connect.Reasons() {
		for _, kind := range []flow.Kind{flow.Request, flow.Connection} {
			r := &flow.Record{Kind: kind, Direction: flow.Outbound, Reason: reason, Status: 503}
			got := strings.Fields(line(t, connect.AccessLogs{TextFormat: told}, r))
			want := flags[reason]
			if kind == flow.Connection && reason == connect.RequestTimeout {
				want = "SI"
			}
			if want == "" || got[0] != want || got[1] == "-" || got[4] != string(reason) {
				t.Errorf("%s: %q, want flag %q", reason, got, want)
			}
			if hasDetails := got[2] != "-"; hasDetails != (kind == flow.Request) {
				t.Errorf("%s: details %q of kind %d", reason, got[2], kind)
			}
		}
	}
}

func TestFlagsAndDetails(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    flow.Record
		want string
	}{
		"served":                      {flow.Record{Kind: flow.Request, Status: 200, Endpoint: "a:1"}, "- - via_upstream - -"},
		"answered by us":              {flow.Record{Kind: flow.Request, Status: 301}, "- - direct_response - -"},
		"the application's 503":       {flow.Record{Kind: flow.Request, Status: 503, Endpoint: "a:1"}, "- - via_upstream - -"},
		"relayed":                     {flow.Record{}, "- - - - -"},
		"no response at all":          {flow.Record{Kind: flow.Request}, "- - - - -"},
		"the caller left":             {flow.Record{Kind: flow.Request, Gone: true}, "DC DownstreamConnectionTermination downstream_remote_disconnect - -"},
		"the other side refused":      {flow.Record{Kind: flow.Request, Status: 403, Endpoint: "a:1", Direction: flow.Outbound, Reason: connect.IntentionDenied, Remote: true}, "- - via_upstream - intention_denied"},
		"rate limit":                  {flow.Record{Kind: flow.Request, Status: 429, Reason: connect.LimitExceeded}, "RL RateLimited local_rate_limited - limit_exceeded"},
		"body too large":              {flow.Record{Kind: flow.Request, Status: 413, Reason: connect.LimitExceeded}, "DPE DownstreamProtocolError request_payload_too_large - limit_exceeded"},
		"too many connections":        {flow.Record{Reason: connect.LimitExceeded}, "OM OverloadManagerTerminated - - limit_exceeded"},
		"silence":                     {flow.Record{Kind: flow.Request, Status: 408, Reason: connect.RequestTimeout}, "SI StreamIdleTimeout stream_idle_timeout - request_timeout"},
		"caller without certificate":  {flow.Record{Reason: connect.TLSFailed}, "DPE DownstreamProtocolError - - tls_failed"},
		"denied connection":           {flow.Record{Reason: connect.IntentionDenied}, "UAEX UnauthorizedExternalService - rbac_access_denied_matched_policy[none] intention_denied"},
		"retries did not help":        {flow.Record{Kind: flow.Request, Direction: flow.Outbound, Status: 503, Retries: 2, Reason: connect.ConnectFailed}, "UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded upstream_reset_before_response_started{remote_connection_failure} - connect_failed"},
		"broken after the response":   {flow.Record{Kind: flow.Request, Status: 200, FirstByte: time.Second, Reason: connect.StreamReset}, "UC UpstreamConnectionTermination upstream_reset_after_response_started{connection_termination} - stream_reset"},
		"a limit is no retried cause": {flow.Record{Kind: flow.Request, Direction: flow.Outbound, Retries: 1, Reason: connect.LimitExceeded}, "UO UpstreamOverflow upstream_reset_before_response_started{overflow} - limit_exceeded"},
	} {
		if got := line(t, connect.AccessLogs{TextFormat: told}, &tc.r); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tc.want)
		}
	}
}

func TestFailuresOfTransportAreToldOnTheSideWhereTheyWere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    flow.Record
		want string
	}{
		"outbound, of the last try":  {flow.Record{Direction: flow.Outbound, Reason: connect.TLSFailed, Why: "why", Tries: []flow.Try{{Error: "first"}, {Error: "last"}}}, "last|-"},
		"outbound, without a try":    {flow.Record{Direction: flow.Outbound, Reason: connect.ConnectFailed, Why: "why"}, "why|-"},
		"inbound handshake":          {flow.Record{Reason: connect.IdentityMismatch, Why: "why"}, "-|why"},
		"application not listening":  {flow.Record{Reason: connect.AppUnreachable, Why: "why"}, "why|-"},
		"told by the other side":     {flow.Record{Direction: flow.Outbound, Reason: connect.AppUnreachable, Remote: true, Why: "why"}, "-|-"},
		"nothing to do with TLS":     {flow.Record{Reason: connect.IntentionDenied, Why: "why"}, "-|-"},
		"nothing is known but which": {flow.Record{Direction: flow.Outbound, Reason: connect.ConnectTimeout}, "-|-"},
	} {
		const format = "%UPSTREAM_TRANSPORT_FAILURE_REASON%|%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"
		if got := line(t, connect.AccessLogs{TextFormat: format}, &tc.r); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
	}
}

func TestWhereItWent(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]flow.Record{
		"local_app 127.0.0.1 9090 1 -":         {Endpoint: "127.0.0.1:9090"},
		"local_app /run/app.sock - 1 -":        {Endpoint: "/run/app.sock"},
		"exposed_path ::1 80 1 -":              {Direction: flow.Exposed, Endpoint: "[::1]:80"},
		"original-destination 192.0.2.1 5 1 -": {Direction: flow.Passed, Endpoint: "192.0.2.1:5"},
		"v2.api.default.default.dc1 10.0.0.1 21000 3 route 2": {
			Direction: flow.Outbound, Upstream: "api", Target: "v2.api.default.default.dc1", Endpoint: "10.0.0.1:21000", Retries: 2, Rule: 2,
		},
		"api - - 0 -": {Direction: flow.Outbound, Upstream: "api", Reason: connect.NotReady},
		"- - - 0 - ":  {Direction: flow.Outbound, Upstream: "api", Reason: connect.NoRoute},
	} {
		const format = "%UPSTREAM_CLUSTER% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %ROUTE_NAME%"
		if got := line(t, connect.AccessLogs{TextFormat: format}, &r); got != strings.TrimSpace(want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestGRPCStatusInEveryForm(t *testing.T) {
	t.Parallel()
	const format = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%"
	for status, want := range map[string]string{
		"0": "OK OK 0 0", "1": "Canceled CANCELLED 1 1", "7": "PermissionDenied PERMISSION_DENIED 7 7", "16": "Unauthenticated UNAUTHENTICATED 16 16",
		"99": "99 99 99 99", "": "- - - -", "x": "x x - -",
	} {
		if got := line(t, connect.AccessLogs{TextFormat: format}, &flow.Record{GRPCStatus: status}); got != want {
			t.Errorf("%q: got %s, want %s", status, got, want)
		}
	}
}
