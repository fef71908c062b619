// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
)

// A splitTable is one service-splitter of the table of package route.
type splitTable struct {
	Name   string
	Splits json.RawMessage
	Shares map[string]float64 // percent, by who got the request and its x-leg
}

func splitName(i int) string { return fmt.Sprintf("split-%d", i) }

// splitRequests are enough to tell a tenth from a ninth of them.
const splitRequests = 600

// TestSplittersDoWhatEnvoyDoes holds the shares of both sidecars to the table,
// within five standard deviations.
func TestSplittersDoWhatEnvoyDoes(t *testing.T) {
	t.Parallel()
	var table []splitTable
	readTable(t, "../connect/route/testdata/splits.json", &table)
	r := &router{consul: httpConsul(t), ports: map[string]map[string]int{"envoy": {}, "outrider": {}}}
	for _, name := range []string{"admin", "v1", "v2"} {
		native(t, r.consul, name, "")
	}
	for i, s := range table {
		r.listen(t, splitName(i))
		configure(t, r.consul, map[string]any{"Kind": "service-splitter", "Name": splitName(i), "Splits": s.Splits})
	}
	r.start(t)
	for _, side := range sides {
		for i, s := range table {
			r.warm(t, side, splitName(i))
			t.Run(side+"/"+s.Name, func(t *testing.T) { s.hold(t, r.ports[side][splitName(i)]) })
		}
	}
}

func (s splitTable) hold(t *testing.T, port int) {
	got := map[string]float64{}
	for range splitRequests {
		a, err := request{Path: "/", Header: map[string][]string{"x-sent": {"1"}}}.ask(dialPlain(port))
		if err != nil || a.Seen == nil {
			t.Fatalf("status %d, %v", a.Status, err)
		}
		leg := a.Seen.Header.Get("X-Leg")
		if leg == "" {
			leg = "-"
		}
		got[a.Seen.Server+" "+leg]++
	}
	for to, n := range got {
		if s.Shares[to] == 0 {
			t.Errorf("%v requests went to %q, which gets none", n, to)
		}
	}
	for to, percent := range s.Shares {
		p := percent / 100
		want, off := p*splitRequests, 5*math.Sqrt(p*(1-p)*splitRequests)
		if math.Abs(got[to]-want) > off {
			t.Errorf("%v of %d requests went to %q, want %.0f ± %.0f", got[to], splitRequests, to, want, off)
		}
	}
}
