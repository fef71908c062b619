// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package recorder

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

func failure(n int) *flow.Record {
	return &flow.Record{Service: "api", Reason: connect.ConnectFailed, Path: fmt.Sprintf("/%d", n)}
}

func paths(f Failures) (out []string) {
	for _, o := range f.Failures {
		out = append(out, o.Path)
	}
	return out
}

func TestLastFailuresAreKeptNewestFirst(t *testing.T) {
	t.Parallel()
	r := New()
	for n := range Keeps + 3 {
		r.Done(failure(n))
		r.Done(&flow.Record{Path: "/fine"})
		r.Done(&flow.Record{Path: "/left", Reason: connect.StreamReset, Gone: true})
	}
	all := r.Last(Keeps+9, nil)
	if all.Total != Keeps+3 || len(all.Failures) != Keeps {
		t.Fatalf("%d of %d", len(all.Failures), all.Total)
	}
	for i, path := range paths(all) {
		if want := fmt.Sprintf("/%d", Keeps+2-i); path != want {
			t.Fatalf("failure %d is %s, want %s", i, path, want)
		}
	}
}

func TestBytesAreBoundedBeforeTheNumberIs(t *testing.T) {
	t.Parallel()
	r := New()
	big := failure(0)
	big.Why, big.Path = strings.Repeat("w", 1024), strings.Repeat("p", 4096)
	for range flow.MaxTries {
		big.Tries = append(big.Tries, flow.Try{Error: strings.Repeat("e", 1024), Endpoint: strings.Repeat("h", 1024)})
	}
	for range 4 * Keeps {
		r.Done(big)
		if r.bytes > maxBytes {
			t.Fatalf("%d bytes", r.bytes)
		}
	}
	if kept := len(r.Last(Keeps, nil).Failures); kept >= Keeps || kept < 100 {
		t.Errorf("%d are kept", kept)
	}
	// Small ones fill the ring again, in order, whatever its shape is now.
	for n := range 2 * Keeps {
		r.Done(failure(n))
	}
	got := paths(r.Last(Keeps, nil))
	if len(got) != Keeps || got[0] != fmt.Sprintf("/%d", 2*Keeps-1) || got[Keeps-1] != fmt.Sprintf("/%d", Keeps) {
		t.Errorf("%d, from %s to %s", len(got), got[0], got[len(got)-1])
	}
	sum := 0
	for i := range r.ring {
		sum += r.ring[i].Size()
	}
	if sum != r.bytes {
		t.Errorf("%d bytes counted, %d held", r.bytes, sum)
	}
}

func TestAnswerHoldsNoHeaderAndNoQuery(t *testing.T) {
	t.Parallel()
	r := New()
	rec := failure(1)
	rec.Path, rec.OriginalPath = "/a?token=hunter2", "/b?token=hunter2"
	rec.RequestHeader = connect.Header{"Authorization": {"hunter2"}}
	r.Done(rec)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/failures", nil))
	if strings.Contains(w.Body.String(), "hunter2") || !strings.Contains(w.Body.String(), "connect_failed") {
		t.Errorf("answer %s", w.Body)
	}
}

func TestAnswerIsChosenByParameters(t *testing.T) {
	t.Parallel()
	r := New()
	for n, rec := range []flow.Record{
		{Service: "api", Reason: connect.IntentionDenied, Source: connect.Identity{Service: "web"}},
		{Service: "web", Reason: connect.ConnectFailed, Upstream: "api"},
		{Service: "web", Reason: connect.RequestTimeout, Upstream: "db"},
	} {
		rec.Path = fmt.Sprint(n)
		r.Done(&rec)
	}
	for query, want := range map[string][]string{
		"": {"2", "1", "0"}, "limit=1": {"2"}, "service=web": {"2", "1"}, "upstream=api": {"1"}, "source=web": {"0"}, "reason=request_timeout": {"2"}, "service=web&limit=1&upstream=api": {"1"}, "service=none": nil,
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/failures?"+query, nil))
		var got Failures
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Failures == nil {
			t.Fatalf("%s: %v: %s", query, err, w.Body)
		}
		if diff := cmp.Diff(want, paths(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	for _, query := range []string{"limit=0", "limit=x", "reason=oops", "servce=web"} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/failures?"+query, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

func TestManyMayFailAtOnce(t *testing.T) {
	t.Parallel()
	r := New()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := range 500 {
				r.Done(failure(n))
				if n%100 == 0 {
					r.Last(10, nil)
				}
			}
		})
	}
	all.Wait()
	if got := r.Last(1, nil).Total; got != 4000 {
		t.Errorf("%d are counted", got)
	}
}

func TestWhatDidNotFailCostsNoMemory(t *testing.T) { //nolint:paralleltest // allocations are counted
	r := New()
	fine := flow.Record{Path: "/fine", Status: 200}
	if n := testing.AllocsPerRun(100, func() { r.Done(&fine) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
