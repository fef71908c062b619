// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkFirstCall measures how long a person waits from the registration of
// a job until a call goes through two sidecars for the first time, with Nomad's
// default checks. Consul makes the first check of a new service at a random time
// within its interval of 10 s, which is most of what is measured.
func BenchmarkFirstCall(b *testing.B) {
	l := startLab(b)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		server, caller := fmt.Sprintf("server%d", n), fmt.Sprintf("caller%d", n)
		l.intend(b, server, map[string]string{caller: "allow"})
		began := time.Now()
		job := l.run(b, shape{fmt.Sprintf("first%d", n), []group{
			{name: server, says: "hello"},
			{name: caller, upstreams: map[string]int{server: 5000}},
		}}.String())
		l.alloc(b, job, caller).answers(b, 5000, "hello")
		took = append(took, time.Since(began))
		if _, _, err := l.api.Jobs().Deregister(*job.ID, false, nil); err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(took)
	within := 0
	for _, d := range took {
		if d <= 10*time.Second {
			within++
		}
	}
	b.ReportMetric(took[len(took)/2].Seconds(), "p50-s")
	b.ReportMetric(took[len(took)*9/10].Seconds(), "p90-s")
	b.ReportMetric(took[len(took)-1].Seconds(), "max-s")
	b.ReportMetric(100*float64(within)/float64(len(took)), "%-within-10s")
}
