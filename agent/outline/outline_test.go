// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package outline

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

func TestOutlineTellsWhatTheRecordTells(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	got := Of(&flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Service: "api", Source: connect.Identity{Service: "web", Peer: "east"},
		Method: "GET", Path: "/admin?x=1", Authority: "user:pass@api.local", Status: 403, Endpoint: "127.0.0.1:80",
		Judged: true, Intention: "web → api", Precedence: 9, Permission: 2, Reason: connect.IntentionDenied, Why: "because",
		Start: start, Duration: 1500 * time.Microsecond, Retries: 1,
		Tries: []flow.Try{{Endpoint: "a", Took: time.Millisecond, Reason: connect.ConnectFailed, Error: "refused"}},
	})
	want := Outline{
		Time: start.Add(1500 * time.Microsecond), Kind: "request", Direction: "inbound", Service: "api", Source: "east/web",
		Method: "GET", Path: "/admin", Authority: "api.local", Status: 403, Endpoint: "127.0.0.1:80",
		Intention: "web → api", Precedence: 9, Permission: 2, Reason: connect.IntentionDenied, Why: "because", TookMS: 1.5, Retries: 1,
		Tries: []Try{{Endpoint: "a", TookMS: 1, Reason: connect.ConnectFailed, Error: "refused"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outline (-want +got):\n%s", diff)
	}
	if !got.Failed() {
		t.Error("it has not failed")
	}
}

func TestIntentionThatWasNotAskedIsNotNamed(t *testing.T) {
	t.Parallel()
	if got := Of(&flow.Record{Intention: "stale", Precedence: 9}); got.Intention != "" || got.Precedence != 0 {
		t.Errorf("outline %+v", got)
	}
}

func TestOutlineIsBoundedWhateverPeersSend(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 60<<10)
	r := flow.Record{Path: long, OriginalPath: long, Authority: long, Method: long, Why: long, Endpoint: long, GRPCStatus: long}
	for range flow.MaxTries {
		r.Tries = append(r.Tries, flow.Try{Error: long, Endpoint: long})
	}
	o := Of(&r)
	text, err := json.Marshal(o)
	if err != nil || len(text) > 12<<10 || !utf8.Valid(text) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if size := o.Size(); size < len(o.Why)+len(o.Path) || size > 12<<10 {
		t.Errorf("size %d", size)
	}
}

func TestFirstTriesAndTheLastOneAreShown(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, maxTries, maxTries + 1, flow.MaxTries} {
		var r flow.Record
		for i := range n {
			r.Tries = append(r.Tries, flow.Try{Endpoint: fmt.Sprint(i)})
		}
		got := Of(&r).Tries
		if len(got) != min(n, maxTries) {
			t.Fatalf("of %d tries %d are shown", n, len(got))
		}
		if n > 0 && (got[0].Endpoint != "0" || got[len(got)-1].Endpoint != fmt.Sprint(n-1)) {
			t.Errorf("of %d tries: %+v", n, got)
		}
	}
}

func TestPathHasNoQuery(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/a?token=x": "/a", "/a#f": "/a", "/a": "/a", "": "", "*": "*", "?x": ""} {
		if got := Path(path); got != want {
			t.Errorf("%q is shown as %q", path, got)
		}
	}
}
