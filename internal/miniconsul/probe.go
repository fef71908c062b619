// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A probe is one registration of a check that has to be run.
type probe struct {
	id         string
	generation uint64
}

// A prober runs the checks that are registered, each on its own goroutine.
type prober struct {
	state *state
	runs  sync.WaitGroup
	stops map[probe]context.CancelFunc
}

// runChecks runs the registered checks until ctx ends and they have all ended.
func (s *Server) runChecks(ctx context.Context) {
	p := &prober{state: s.state, stops: make(map[probe]context.CancelFunc)}
	defer p.runs.Wait()
	defer p.reconcile(ctx, nil)
	for {
		wanted, next := s.state.due(time.Now())
		p.reconcile(ctx, wanted)
		select {
		case <-ctx.Done():
			return
		case <-s.state.checksChanged:
		case <-later(next):
		}
	}
}

// reconcile starts and stops so that just the wanted checks run.
func (p *prober) reconcile(ctx context.Context, wanted map[probe]checkDefinition) {
	for key, stop := range p.stops {
		if _, ok := wanted[key]; !ok {
			stop()
			delete(p.stops, key)
		}
	}
	for key, def := range wanted {
		if p.stops[key] == nil {
			p.start(ctx, key, def)
		}
	}
}

func (p *prober) start(ctx context.Context, key probe, def checkDefinition) {
	ctx, cancel := context.WithCancel(ctx)
	p.stops[key] = cancel
	p.runs.Go(func() { p.run(ctx, key, def) })
}

// run runs one check at once and then at its interval.
func (p *prober) run(ctx context.Context, key probe, def checkDefinition) {
	ticker := time.NewTicker(max(def.Interval.value, minInterval))
	defer ticker.Stop()
	for {
		status, output := def.run(ctx)
		if ctx.Err() != nil {
			return
		}
		p.state.observe(key.id, key.generation, status, output)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// due lets TTL checks expire whose time is over, and returns the checks that
// have to be run and how long it is until the next one expires, 0 for never.
func (st *state) due(now time.Time) (wanted map[probe]checkDefinition, next time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	wanted = make(map[probe]checkDefinition)
	for id, c := range st.checks {
		switch c.kind {
		case kindTCP, kindHTTP:
			wanted[probe{id, c.generation}] = c.def
		case kindTTL:
			left := c.expires.Sub(now)
			switch {
			case c.expires.IsZero():
			case left <= 0:
				c.expires = time.Time{} // until the next heartbeat
				st.setStatus(c, critical, "TTL expired")
			case next == 0 || left < next:
				next = left
			}
		}
	}
	st.updateAliases()
	return wanted, next
}

// run makes one attempt and says what came of it.
func (d *checkDefinition) run(ctx context.Context) (status, output string) {
	timeout := d.Timeout.value
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if d.kind() == kindTCP {
		return d.dial(ctx)
	}
	return d.call(ctx)
}

func (d *checkDefinition) tls() *tls.Config {
	return &tls.Config{ServerName: d.TLSServerName, InsecureSkipVerify: d.TLSSkipVerify, MinVersion: tls.VersionTLS12} //nolint:gosec // whoever registers the check says so
}

func (d *checkDefinition) dial(ctx context.Context) (status, output string) {
	dial := (&net.Dialer{}).DialContext
	if d.TCPUseTLS {
		dial = (&tls.Dialer{Config: d.tls()}).DialContext
	}
	conn, err := dial(ctx, "tcp", d.TCP)
	if err != nil {
		return critical, err.Error()
	}
	_ = conn.Close() // it has served its purpose
	return passing, fmt.Sprintf("TCP connect %s: Success", d.TCP)
}

// call makes an HTTP request: 2xx passes, 429 warns, all else is critical
// (Consul, HTTP checks).
func (d *checkDefinition) call(ctx context.Context) (status, output string) {
	method := strings.ToUpper(d.Method)
	if method == "" {
		method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(ctx, method, d.HTTP, strings.NewReader(d.Body))
	if err != nil {
		return critical, err.Error()
	}
	for name, values := range d.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
		if strings.EqualFold(name, "host") && len(values) > 0 {
			request.Host = values[0]
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: d.tls()}}
	answer, err := client.Do(request)
	if err != nil {
		return critical, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return critical, err.Error()
	}
	status = critical
	switch {
	case answer.StatusCode >= 200 && answer.StatusCode < 300:
		status = passing
	case answer.StatusCode == http.StatusTooManyRequests:
		status = warning
	}
	return status, fmt.Sprintf("HTTP %s %s: %s Output: %s", method, d.HTTP, answer.Status, body)
}
