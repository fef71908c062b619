// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

const (
	// flushEvery is how often values are sent unless the proxy config says it; as
	// often as Envoy does.
	flushEvery = 5 * time.Second
	// sendWithin bounds one sending: a socket that nobody reads from blocks.
	sendWithin = time.Second
	// maxDatagram fits into a frame of Ethernet.
	maxDatagram = 1432
)

// send sends what has changed to statsd until ctx ends. Traffic knows nothing of
// it. While nobody can be reached, counts are kept for the next sending; what was
// on its way is lost, as datagrams are.
func (r *Registry) send(ctx context.Context, j job) {
	log := r.opts.Logger.With("service", j.member.set.Service())
	d := &deltas{dog: j.dog}
	// What was counted before somebody wanted to know is not what has changed.
	_ = d.lines(r.of(ctx, j.member))
	ticker := time.NewTicker(j.every)
	defer ticker.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := r.flush(ctx, j, d)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failed:
			log.Warn("metrics cannot be sent; trying again", "error", err)
		case err == nil && failed:
			log.Info("metrics can be sent again")
		}
		failed = err != nil
	}
}

// of is what is sent of a sidecar.
func (r *Registry) of(ctx context.Context, m *Member) selected {
	ctx, cancel := context.WithTimeout(ctx, stateWithin)
	defer cancel()
	families, err := r.gather(ctx, selection{members: r.choose(func(o *Member) bool { return o == m })})
	if err != nil {
		r.opts.Logger.Warn("some metrics cannot be read", "error", err)
	}
	return families
}

// flush sends one set of values. The socket is new each time: the name may lead
// elsewhere by now, and whoever reads may have been started anew.
func (r *Registry) flush(ctx context.Context, j job, d *deltas) error {
	network, address, err := r.resolve(j.url)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return fmt.Errorf("reach statsd: %w; correct the URL in the proxy config, or start what listens there", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("bound the sending to statsd: %w", err)
	}
	for _, packet := range packets(d.lines(r.of(ctx, j.member))) {
		if _, err := conn.Write(packet); err != nil {
			return fmt.Errorf("send to statsd: %w; start what listens there, or correct the URL in the proxy config", err)
		}
	}
	return nil
}

// resolve reads a URL, or the variable that it names. What a variable holds is never
// shown: anything could be in it.
func (r *Registry) resolve(text string) (network, address string, err error) {
	shown := text
	if len(text) > 1 && text[0] == '$' {
		text = r.opts.Getenv(text[1:])
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || text == "":
		return "", "", fmt.Errorf("find statsd: %.40q holds no URL; write udp://host:port or unix:///path into it", shown)
	case u.Scheme == "udp" && u.Hostname() != "" && u.Port() != "":
		return "udp", net.JoinHostPort(u.Hostname(), u.Port()), nil
	case u.Scheme == "unix" && u.Path != "":
		return "unixgram", u.Path, nil
	}
	if shown != text {
		return "", "", fmt.Errorf("find statsd: %.40q holds no URL of the form udp://host:port or unix:///path", shown)
	}
	return "", "", errors.New("find statsd: the URL has not the form udp://host:port or unix:///path")
}

// packets joins lines, as many as fit into one datagram. A longer line is left out:
// it would be cut.
func packets(lines []string) [][]byte {
	var out [][]byte
	var packet []byte
	for _, line := range lines {
		if len(line) > maxDatagram {
			continue
		}
		if len(packet) > 0 && len(packet)+1+len(line) > maxDatagram {
			out = append(out, packet)
			packet = nil
		}
		if len(packet) > 0 {
			packet = append(packet, '\n')
		}
		packet = append(packet, line...)
	}
	if len(packet) > 0 {
		out = append(out, packet)
	}
	return out
}
