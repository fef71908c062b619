// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// soon is as often as tests send.
const soon = 20 * time.Millisecond

// statsd is a receiver that adds up what it is sent.
type statsd struct {
	conn    net.PacketConn
	longest int
}

func receive(t *testing.T, network, address string) *statsd {
	t.Helper()
	var listen net.ListenConfig
	conn, err := listen.ListenPacket(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &statsd{conn: conn}
}

func (s *statsd) url() string { return "udp://" + s.conn.LocalAddr().String() }

// until reads lines until done is satisfied with all that have come.
func (s *statsd) until(t *testing.T, done func(all []string) bool) []string {
	t.Helper()
	var all []string
	packet := make([]byte, 64<<10)
	if err := s.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for !done(all) {
		n, _, err := s.conn.ReadFrom(packet)
		if err != nil {
			t.Fatalf("%v; what has come last: %q", err, all[max(0, len(all)-40):])
		}
		s.longest = max(s.longest, n)
		all = append(all, strings.Split(string(packet[:n]), "\n")...)
	}
	return all
}

func has(all []string, line string) bool { return slices.Contains(all, line) }

// logged collects what is logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
	said chan struct{} // one slot
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.said <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func TestCountsAreSentAsChangesAndGaugesAsTheyAre(t *testing.T) {
	t.Parallel()
	receiver := receive(t, "udp", "127.0.0.1:0")
	set := measure.NewSet("api", "api-proxy")
	served(set, 5) // Before anybody wanted to know.
	asked := make(chan struct{}, 100)
	r := telemetry.New(telemetry.Options{State: func(context.Context) telemetry.State {
		select {
		case asked <- struct{}{}:
		default:
		}
		return telemetry.State{Sidecars: []telemetry.Sidecar{{Service: "api", ProxyID: "api-proxy", Ready: true, Snapshot: 3, LeafNotAfter: time.Unix(90, 0), LeafNotBefore: time.Unix(80, 0)}}, Now: time.Unix(100, 0)}
	}})
	r.Add(set).Configure(connect.Telemetry{Statsd: receiver.url(), Interval: soon})
	run(t, r)
	<-asked
	<-asked // The first values are the ground by now.
	served(set, 3)
	all := receiver.until(t, func(all []string) bool {
		return has(all, "outrider.requests_total.2xx.api.inbound.api-proxy.api.web._._:3|c")
	})
	at := slices.Index(all, "outrider.leaf_seconds_to_expiry.api-proxy.api:-10|g")
	if at < 1 || all[at-1] != "outrider.leaf_seconds_to_expiry.api-proxy.api:0|g" {
		t.Errorf("a negative gauge is not set to zero first: %q", all[max(0, at-1)])
	}
	for _, line := range []string{
		"outrider.ready.api-proxy.api:1|g",
		"outrider.snapshot_version.api-proxy.api:3|g",
		// Between 25 and 50 ms; one stands for three.
		"outrider.request_duration.api.inbound.api-proxy.api.web._._:37.5|ms|@0.3333333333333333",
	} {
		if !has(all, line) {
			t.Errorf("no line %q in %q", line, all)
		}
	}
	for _, line := range all {
		if strings.Contains(line, "go_") || strings.Contains(line, "_total") && strings.HasSuffix(line, ":0|c") {
			t.Errorf("sent: %q", line)
		}
	}
	served(set, 1)
	receiver.until(t, func(all []string) bool {
		return has(all, "outrider.requests_total.2xx.api.inbound.api-proxy.api.web._._:1|c") &&
			has(all, "outrider.request_duration.api.inbound.api-proxy.api.web._._:37.5|ms")
	})
}

func TestDogStatsDGetsTagsOverASocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dog.sock")
	receiver := receive(t, "unixgram", path)
	set := measure.NewSet("api", "api-proxy")
	r := telemetry.New(telemetry.Options{
		Getenv: func(name string) string { return map[string]string{"DOG": "unix://" + path}[name] },
		State: func(context.Context) telemetry.State {
			return telemetry.State{Sidecars: []telemetry.Sidecar{{Service: "api", ProxyID: "api-proxy", LeafNotAfter: time.Unix(90, 0)}}, Now: time.Unix(100, 0)}
		},
	})
	r.Add(set).Configure(connect.Telemetry{DogStatsd: "$DOG", Interval: soon, Tags: []connect.Tag{{Name: "env", Value: "a,b|c\nd"}}})
	run(t, r)
	receiver.until(t, func(all []string) bool {
		return has(all, "outrider.leaf_seconds_to_expiry:-10|g|#env:a_b_c_d,proxy_id:api-proxy,service:api")
	})
	for i := range 300 { // More than fits into one packet.
		set.Peer(peer(fmt.Sprintf("web-%d", i))).Done(&flow.Record{Kind: flow.Request, Status: 200, Duration: time.Millisecond})
	}
	receiver.until(t, func(all []string) bool {
		return has(all, "outrider.requests_total:1|c|#code:2xx,destination:api,direction:inbound,env:a_b_c_d,proxy_id:api-proxy,service:api,source:web-0") &&
			has(all, "outrider.requests_total:44|c|#code:2xx,destination:api,direction:inbound,env:a_b_c_d,proxy_id:api-proxy,service:api,source:other")
	})
	if receiver.longest > 1432 {
		t.Errorf("a datagram of %d bytes", receiver.longest)
	}
}

func TestReceiverThatComesLaterGetsEveryCount(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "later.sock")
	set := measure.NewSet("api", "api-proxy")
	log := &logged{said: make(chan struct{}, 1)}
	r := telemetry.New(telemetry.Options{Logger: hclog.New(&hclog.LoggerOptions{Output: log})})
	r.Add(set).Configure(connect.Telemetry{DogStatsd: "unix://" + path, Interval: soon})
	run(t, r)
	<-log.said // It has tried.
	served(set, 4)
	receiver := receive(t, "unixgram", path)
	receiver.until(t, func(all []string) bool {
		return has(all, "outrider.requests_total:4|c|#code:2xx,destination:api,direction:inbound,proxy_id:api-proxy,service:api,source:web")
	})
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := strings.Count(log.text.String(), "metrics cannot be sent"); n != 1 {
		t.Errorf("%d lines about what cannot be sent:\n%s", n, &log.text)
	}
}

func TestSocketThatNobodyReadsStopsNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "full.sock")
	receive(t, "unixgram", path) // It fills up.
	set := measure.NewSet("api", "api-proxy")
	for i := range 200 {
		set.Upstream(connect.UpstreamID(fmt.Sprint(i))).Opened()
	}
	log := &logged{said: make(chan struct{}, 1)}
	r := telemetry.New(telemetry.Options{Logger: hclog.New(&hclog.LoggerOptions{Output: log})})
	m := r.Add(set)
	m.Configure(connect.Telemetry{Statsd: "unix://" + path, Interval: soon})
	run(t, r)
	<-log.said
	log.mu.Lock()
	if text := log.text.String(); !strings.Contains(text, "send to statsd") {
		t.Errorf("log %s", text)
	}
	log.mu.Unlock()
	m.Remove() // And the end waits for nobody, which run looks at.
}

// Whoever may register a sidecar could name any variable.
func TestContentOfAVariableIsNeverShown(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"hvs.secret", "http://user:secret@host:1", "%zz secret", "udp://secret", ""} {
		log := &logged{said: make(chan struct{}, 1)}
		r := telemetry.New(telemetry.Options{
			Logger: hclog.New(&hclog.LoggerOptions{Output: log}),
			Getenv: func(string) string { return secret },
		})
		r.Add(measure.NewSet("api", "api-proxy")).Configure(connect.Telemetry{Statsd: "$VAULT_TOKEN", Interval: soon})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		<-log.said
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if text := log.text.String(); strings.Contains(text, "secret") || !strings.Contains(text, "$VAULT_TOKEN") {
			t.Errorf("log %s", text)
		}
	}
}
