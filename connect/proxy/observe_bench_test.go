// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/access"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// lineSink makes lines of Consul's default access log, and keeps the last 64 KiB
// of them, as a writer does between two writes.
type lineSink struct {
	format *access.Format
	pool   sync.Pool
	mu     sync.Mutex
	kept   []byte
}

func (s *lineSink) Done(r *flow.Record) {
	if !s.format.Wants(r) {
		return
	}
	buf, ok := s.pool.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	*buf = s.format.Append((*buf)[:0], r)
	s.mu.Lock()
	if s.kept = append(s.kept, *buf...); len(s.kept) > 64<<10 {
		s.kept = s.kept[:0]
	}
	s.mu.Unlock()
	s.pool.Put(buf)
}

// BenchmarkHTTPObserved is what metrics and access logs cost: batches of requests of
// 1 KB through both proxies, in turns with nobody told and with metrics, or metrics
// and the default access log, on both sides. The turns are short, so that what else
// the machine does falls on both alike; the ratio of the times is the result.
func BenchmarkHTTPObserved(b *testing.B) {
	format, warnings := access.Compile(connect.AccessLogs{Enabled: true}, access.Facts{Hostname: "bench"})
	if format == nil || len(warnings) > 0 {
		b.Fatal(warnings)
	}
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		urls := map[string]string{}
		for _, told := range []string{"nobody", "metrics", "metrics+log"} {
			r := newHTTPPair(b, protocol, kilobyte(), func(p *Proxy) {
				var o Observers
				if told != "nobody" {
					o.Set = measure.NewSet("bench", "bench-sidecar-proxy")
				}
				if told == "metrics+log" {
					o.Sinks = []flow.Sink{&lineSink{format: format}}
				}
				p.Observe(o)
			})
			urls[told] = strings.TrimSuffix(r.url(b, "/"), "/")
		}
		for _, told := range []string{"metrics", "metrics+log"} {
			b.Run(string(protocol)+"/"+told, func(b *testing.B) {
				took := map[string]time.Duration{}
				clients := map[string]*http.Client{}
				for _, way := range []string{"nobody", told} {
					clients[way] = clientOf(b, protocol != connect.HTTP)
					clients[way].Transport.(*http.Transport).MaxIdleConnsPerHost = 1024
				}
				for round := 0; b.Loop(); round++ {
					ways := []string{"nobody", told}
					if round%2 == 1 {
						slices.Reverse(ways)
					}
					for _, way := range ways {
						took[way] += batch(b, clients[way], protocol, urls[way])
					}
				}
				b.ReportMetric(float64(took[told])/float64(took["nobody"]), "ratio")
			})
		}
	}
}

// batch is how long 256 requests take, 64 at a time.
func batch(b *testing.B, c *http.Client, protocol connect.Protocol, url string) time.Duration {
	b.Helper()
	began := time.Now()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 4 {
				if err := callKilobyte(c, protocol, url); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(began)
}
