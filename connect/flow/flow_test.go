// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package flow

import (
	"crypto/tls"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func TestWhatIsKeptHoldsNoHeaderAndSharesNothing(t *testing.T) {
	t.Parallel()
	r := Record{
		Kind: Request, Path: "/a?token=secret", RequestHeader: connect.Header{"Authorization": {"secret"}},
		ResponseHeader: connect.Header{"Set-Cookie": {"secret"}}, TLS: &tls.ConnectionState{}, Tries: []Try{{Endpoint: "a"}},
	}
	kept := r.Keep()
	r.Tries[0].Endpoint = "b"
	if kept.RequestHeader != nil || kept.ResponseHeader != nil || kept.TLS != nil {
		t.Error("headers or the TLS state were kept")
	}
	if kept.Tries[0].Endpoint != "a" {
		t.Error("tries are shared with the record")
	}
	if kept.PathOnly() != "/a" {
		t.Errorf("path %q", kept.PathOnly())
	}
}

func TestACallerWhoLeftIsNoFailure(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		r    Record
		want bool
	}{
		{Record{}, false},
		{Record{Reason: connect.StreamReset}, true},
		{Record{Reason: connect.StreamReset, Gone: true}, false},
	} {
		if got := tc.r.Failed(); got != tc.want {
			t.Errorf("%+v: %v", tc.r, got)
		}
	}
}

func TestEveryDirectionHasAWord(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, d := range []Direction{Inbound, Outbound, Exposed, Passed} {
		seen[d.String()] = true
	}
	if len(seen) != 4 {
		t.Errorf("words %v", seen)
	}
}
