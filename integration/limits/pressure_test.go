// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stubborn is an application of HTTP/2 that reads no upload, and answers a
// download with more than anybody will read, until the test lets go of it.
func stubborn(t *testing.T, release <-chan struct{}) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Protocols: protocols, ReadHeaderTimeout: patience,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 64 << 10},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/upload":
				select {
				case <-release:
				case <-r.Context().Done():
				}
			case "/download":
				block := make([]byte, 16<<10)
				for range 512 { // 8 MiB
					if _, err := w.Write(block); err != nil {
						return
					}
				}
			default:
				_, _ = io.WriteString(w, "fine")
			}
		}),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return l.Addr()
}

// zeros is a body without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// connection is an HTTP/2 client with one connection to api that reads nothing
// ahead.
func (m *mesh) connection() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	config := m.client.Clone()
	config.NextProtos = []string{"h2"}
	return &http.Transport{
		Protocols: protocols, TLSClientConfig: config, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 64 << 10, StrictMaxConcurrentRequests: true},
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: config}).DialContext(ctx, network, m.inbound)
		},
	}
}

// outcomes counts how requests have fared.
type outcomes struct{ underWay, refused, other atomic.Int64 }

// press sends requests over one connection, every other one an upload, and reads
// no answer until ctx ends.
func (m *mesh) press(ctx context.Context, streams int, seen *outcomes) {
	client := m.connection()
	defer client.CloseIdleConnections()
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			method, path, body := http.MethodGet, "/download", io.Reader(nil)
			if i%2 == 0 {
				method, path, body = http.MethodPost, "/upload", zeros{}
			}
			req, err := http.NewRequestWithContext(ctx, method, "https://api"+path, body)
			if err != nil {
				return
			}
			seen.underWay.Add(1)
			resp, err := client.RoundTrip(req)
			if err != nil {
				return // ctx has ended
			}
			defer func() { _ = resp.Body.Close() }()
			switch {
			case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("X-Outrider-Reason") == "limit_exceeded":
				seen.underWay.Add(-1)
				seen.refused.Add(1)
			case resp.StatusCode != http.StatusOK:
				seen.other.Add(1)
			}
			<-ctx.Done()
		})
	}
	all.Wait()
}

// settle waits until what is under way has grown as far as it will: nothing has
// changed for a while.
func (m *mesh) settle(t *testing.T, seen *outcomes) {
	t.Helper()
	const still = time.Second
	last, since := "", time.Now()
	until(t, "nothing changes any more", func() error {
		s := m.status(t).Proxy
		now := fmt.Sprint(seen.underWay.Load(), seen.refused.Load(), s.Memory.Held, s.Inbound.Requests)
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < still {
			return fmt.Errorf("the latest change: %s", now)
		}
		return nil
	})
}

func TestBodiesThatNobodyReadsStayWithinTheMemory(t *testing.T) {
	release := make(chan struct{})
	m := newMesh(t, unitMemory(t), "http2", stubborn(t, release))
	const connections, streams = 80, 64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen outcomes
	var all sync.WaitGroup
	for range connections {
		all.Go(func() { m.press(ctx, streams, &seen) })
	}
	m.settle(t, &seen)
	m.alive(t)
	n, why := m.refusals(t)
	t.Logf("%d requests are under way, %d were refused, %d ended otherwise: %s", seen.underWay.Load(), seen.refused.Load(), seen.other.Load(), m.cgroup.use(t))
	t.Logf("it says: %s; memory %+v", why, m.status(t).Proxy.Memory)
	if seen.underWay.Load() < 500 || seen.refused.Load() == 0 || n == 0 {
		t.Errorf("%d requests are under way and %d were refused, %d by the agent's count; want some of each", seen.underWay.Load(), seen.refused.Load(), n)
	}
	close(release)
	cancel()
	all.Wait()
	until(t, "a request is served again", func() error {
		client := m.connection()
		defer client.CloseIdleConnections()
		resp, err := (&http.Client{Transport: client, Timeout: patience}).Get("https://api/")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "fine" {
			return fmt.Errorf("%s, %q, %w", resp.Status, text, err)
		}
		return nil
	})
	m.alive(t)
}
