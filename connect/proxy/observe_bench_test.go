// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net/http"
	"os"
	"path/filepath"
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

// lineSink writes lines of Consul's default access log to a file, 64 KiB at a time
// and over and over its first 32 MiB.
type lineSink struct {
	format *access.Format
	pool   sync.Pool
	mu     sync.Mutex
	kept   []byte
	file   *os.File
	at     int64
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
		n, _ := s.file.WriteAt(s.kept, s.at)
		s.at = (s.at + int64(n)) % (32 << 20)
		s.kept = s.kept[:0]
	}
	s.mu.Unlock()
	s.pool.Put(buf)
}

// newLineSink fails the benchmark unless its lines have reached the file at the end.
func newLineSink(b *testing.B) *lineSink {
	b.Helper()
	format, warnings := access.Compile(connect.AccessLogs{Enabled: true}, access.Facts{Hostname: "bench"})
	if format == nil || len(warnings) > 0 {
		b.Fatal(warnings)
	}
	file, err := os.Create(filepath.Join(b.TempDir(), "access.log"))
	if err != nil {
		b.Fatal(err)
	}
	s := &lineSink{format: format, file: file}
	b.Cleanup(func() {
		line := make([]byte, 1)
		if n, _ := file.ReadAt(line, 0); n != 1 || line[0] != '{' {
			b.Errorf("no line was written")
		}
		_ = file.Close()
	})
	return s
}

// BenchmarkHTTPObserved is what metrics and access logs cost: batches of requests of
// 1 KB through both proxies, in turns with nobody told and with metrics, or metrics
// and the default access log, on both sides. The turns are short, so that what else
// the machine does falls on both alike, and the result is the median of the ratios
// of two turns that follow each other; that of "nobody" says how far to trust it.
func BenchmarkHTTPObserved(b *testing.B) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		unobserved := observedURL(b, protocol, Observers{})
		for _, told := range []string{"nobody", "metrics", "metrics+log"} {
			b.Run(string(protocol)+"/"+told, func(b *testing.B) {
				var o Observers
				if told != "nobody" {
					o.Set = measure.NewSet("bench", "bench-sidecar-proxy")
				}
				if told == "metrics+log" {
					o.Sinks = []flow.Sink{newLineSink(b)}
				}
				compareTurns(b, protocol, unobserved, observedURL(b, protocol, o))
			})
		}
	}
}

// observedURL is the way through two proxies that tell o.
func observedURL(b *testing.B, protocol connect.Protocol, o Observers) string {
	b.Helper()
	return strings.TrimSuffix(newHTTPPair(b, protocol, kilobyte(), func(p *Proxy) { p.Observe(o) }).url(b, "/"), "/")
}

// compareTurns reports how much longer batches take by the url observed.
func compareTurns(b *testing.B, protocol connect.Protocol, unobserved, observed string) {
	b.Helper()
	clients := map[string]*http.Client{}
	for _, url := range []string{unobserved, observed} {
		clients[url] = clientOf(b, protocol != connect.HTTP)
		clients[url].Transport.(*http.Transport).MaxIdleConnsPerHost = 1024
		batch(b, clients[url], protocol, url) // dials
	}
	var ratios []float64
	for b.Loop() {
		ways := []string{unobserved, observed}
		if len(ratios)%2 == 1 {
			slices.Reverse(ways)
		}
		took := map[string]time.Duration{}
		for _, url := range ways {
			took[url] = batch(b, clients[url], protocol, url)
		}
		ratios = append(ratios, float64(took[observed])/float64(took[unobserved]))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
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
