// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// Over all draws, every leg gets exactly its share. The integration suite holds
// Envoy and Outrider to the same table by chance.
func TestSplitTable(t *testing.T) {
	text, err := os.ReadFile("testdata/splits.json")
	if err != nil {
		t.Fatal(err)
	}
	var table []struct {
		Name   string
		Splits []struct {
			Weight         float64
			Service        string
			RequestHeaders connect.HeaderEdits
		}
		Shares map[string]float64
	}
	if err := json.Unmarshal(text, &table); err != nil {
		t.Fatal(err)
	}
	for _, tc := range table {
		t.Run(tc.Name, func(t *testing.T) {
			c := &connect.Chain{Service: "web", Start: "s", Nodes: map[string]connect.Node{}, Targets: map[connect.TargetID]connect.Target{}}
			splitter := connect.Node{Kind: connect.SplitterNode}
			for _, s := range tc.Splits {
				id := connect.TargetID(s.Service)
				c.Targets[id] = connect.Target{ID: id, Service: s.Service}
				c.Nodes[s.Service] = connect.Node{Kind: connect.ResolverNode, Resolver: &connect.Resolver{Target: id}}
				splitter.Splits = append(splitter.Splits, connect.Split{
					Weight: int(math.Round(s.Weight * 100)), Next: s.Service, RequestHeaders: s.RequestHeaders,
				})
			}
			c.Nodes["s"] = splitter
			table, err := CompileHTTP(c, connect.Upstream{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for draw := range uint32(Draws) {
				h := &connect.Head{Method: "GET", Path: "/", Header: connect.Header{"X-Sent": {"1"}}}
				choice, ok := table.Route(h, draw)
				if !ok {
					t.Fatal("no route")
				}
				choice.EditRequest(h, nil)
				leg, found := h.Header.Lookup("X-Leg")
				if !found {
					leg = "-"
				}
				got[fmt.Sprintf("%s %s", table.Destinations()[choice.Destination].Legs[0].Target.Service, leg)] += 100.0 / Draws
			}
			for to := range got {
				got[to] = math.Round(got[to]*100) / 100
			}
			if diff := cmp.Diff(tc.Shares, got); diff != "" {
				t.Errorf("shares (-want +got):\n%s", diff)
			}
		})
	}
}
