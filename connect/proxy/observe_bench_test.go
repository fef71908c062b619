// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/accesslog"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/access"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// fileLog is Consul's default access log in a file, as agents write it. The
// benchmark fails unless it has a line for each of at least so many requests as
// requests says at the end, on both sides.
func fileLog(b *testing.B, requests func() int) flow.Sink {
	b.Helper()
	dir := b.TempDir()
	writers := accesslog.New(accesslog.Options{Logger: hclog.NewNullLogger(), Directories: []string{dir}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- writers.Run(ctx) }()
	log := writers.Open(hclog.NewNullLogger())
	path := filepath.Join(dir, "access.log")
	log.Use(connect.AccessLogs{Enabled: true, Type: connect.AccessLogFile, Path: path}, access.Facts{})
	b.Cleanup(func() {
		log.Close()
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		text, err := os.ReadFile(path)
		if lines := bytes.Count(text, []byte("\n")); err != nil || lines < 2*requests() {
			b.Errorf("%d lines for %d requests: %v", lines, requests(), err)
		}
	})
	return log
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
				sent := 0
				if told == "metrics+log" {
					o.Sinks = []flow.Sink{fileLog(b, func() int { return sent })}
				}
				sent = compareTurns(b, protocol, unobserved, observedURL(b, protocol, o))
			})
		}
	}
}

// observedURL is the way through two proxies that tell o.
func observedURL(b *testing.B, protocol connect.Protocol, o Observers) string {
	b.Helper()
	return strings.TrimSuffix(newHTTPPair(b, protocol, kilobyte(), func(p *Proxy) { p.Observe(o) }).url(b, "/"), "/")
}

// compareTurns reports how much longer batches take by the url observed, and
// returns how many requests it has sent there.
func compareTurns(b *testing.B, protocol connect.Protocol, unobserved, observed string) (sent int) {
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
	return (len(ratios) + 1) * batchSize
}

const batchSize = 256

// batch is how long 256 requests take, 64 at a time.
func batch(b *testing.B, c *http.Client, protocol connect.Protocol, url string) time.Duration {
	b.Helper()
	began := time.Now()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range batchSize / 64 {
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
