// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net/http"
	"strings"
	"sync"
	"testing"

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

// BenchmarkHTTPObserved is what metrics and access logs cost: requests of 1 KB
// through both proxies, 32 at a time for each core, with nobody told, with metrics,
// and with metrics and the default access log on both sides. The ratios count.
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
		for _, told := range []string{"nobody", "metrics", "metrics+log"} {
			b.Run(string(protocol)+"/"+told, func(b *testing.B) {
				c := clientOf(b, protocol != connect.HTTP)
				c.Transport.(*http.Transport).MaxIdleConnsPerHost = 1024
				b.ReportAllocs()
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := callKilobyte(c, protocol, urls[told]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
