// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect/explain"
)

// A file may come from anybody who asks for help: whatever it holds, it is
// explained or refused, and every explanation ends in a verdict.
func FuzzSavedSnapshotIsExplainedOrRefused(f *testing.F) {
	const head = `{"web":{"TrustDomain":"a.consul","Leaf":{"Identity":"spiffe://a.consul/ns/default/dc/dc1/svc/web"},"Service":{"Name":"web","Protocol":"http"},
		"Upstreams":[{"ID":"api","Name":"api"}],"Chains":{"api":{"Protocol":"http","Start":"r","Nodes":{"r":`
	const tail = `}}}}}`
	for _, node := range []string{
		`{"Kind":"resolver","Resolver":{"Target":"t"}}},"Targets":{"t":{"ID":"t","Service":"web"}}}},"Endpoints":{"t":[{"Address":"h","Port":1,"Weight":1}]}}}`,
		`{"Kind":"resolver"}` + tail, `{"Kind":"splitter","Splits":[{"Weight":1,"Next":"r"}]}` + tail, `{"Kind":"router","Routes":[{"Next":"r"}]}` + tail, `{}` + tail,
	} {
		f.Add(head+node, "/a")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		q, err := explain.New("web", "api", "GET", path, "", nil)
		if err != nil {
			return
		}
		out, err := ExplainSaved(t.Context(), strings.NewReader(text), q, time.Unix(0, 0))
		if err != nil {
			return
		}
		if last := out.Lines[len(out.Lines)-1]; last.Step != "verdict" || last.Text == "" {
			t.Errorf("the last line is %+v", last)
		}
		sum := 0
		for _, o := range out.Verdict.Outcomes {
			sum += o.Share
		}
		if sum != explain.Whole || out.Verdict.Served+out.Verdict.Unknown > sum {
			t.Errorf("the shares make %d: %+v", sum, out.Verdict)
		}
	})
}
