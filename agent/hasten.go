// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// unseenAfter is when a sidecar that Consul's checks leave out is worth a word:
// they look every ten seconds unless somebody asked for another interval (Consul,
// sidecar service: defaults).
const unseenAfter = 30 * time.Second

// beSeen has callers elsewhere see the sidecar soon, and says why they do not.
// That it cannot is no fault: Consul looks and publishes by itself, later.
func (s *session) beSeen(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.listening:
	}
	s.hasten(ctx)
	pause(ctx, unseenAfter)
	s.sayUnseen(ctx)
	return nil
}

// hasten has Consul look at the sidecar as soon as it and its application listen,
// where that has been asked for, and publish what it sees, there and where the
// registration is ours.
func (s *session) hasten(ctx context.Context) {
	if !s.ref.Hasten && s.foreign || !applicationListens(ctx, s.service) {
		return
	}
	token, err := readToken(s.ref.CheckToken)
	passes, published := false, false
	if err == nil && s.ref.Hasten {
		passes, err = s.agent.consul.HastenCheck(ctx, s.id(), token)
	}
	if err == nil {
		published, err = s.agent.consul.PublishHealth(ctx, s.id(), token)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil && !s.ref.Hasten:
		s.log.Debug("Consul was not seen to publish the sidecar's health", "error", err)
	case err != nil:
		s.log.Info("callers elsewhere may see this sidecar only after the next interval of its check", "error", err)
	case passes, published:
		s.log.Info("Consul's check of the sidecar passes; callers elsewhere see it")
	}
}

// sayUnseen names the checks for which callers elsewhere leave the sidecar out.
// Nobody else on this host would: it listens, and callers see no more than the
// name of the check.
func (s *session) sayUnseen(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	failing, err := s.agent.consul.FailingChecks(ctx)
	if err != nil {
		s.log.Debug("Consul was not heard on the sidecar's health", "error", err)
		return
	}
	for _, check := range failing {
		if check.ServiceID == s.id() || check.ServiceID == "" { // of the whole host
			s.log.Warn("Consul counts this sidecar as unhealthy, callers elsewhere may leave it out: see whether its address leads here from where Consul runs, and whether the application is healthy",
				"check", check.Name, "status", check.Status, "output", check.Output)
		}
	}
}

// applicationListens waits for the application to accept connections: Nomad
// starts it after its sidecar, and whoever sees the sidecar calls. It reports
// false when that takes too long for haste to make a difference.
func applicationListens(ctx context.Context, service connect.Service) bool {
	const pace, within = 100 * time.Millisecond, time.Minute
	network, address := "tcp", net.JoinHostPort(service.LocalAddress, strconv.Itoa(service.LocalPort))
	if service.LocalSocketPath != "" {
		network, address = "unix", service.LocalSocketPath
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			_ = conn.Close()
			return true
		}
		pause(ctx, pace)
		if ctx.Err() != nil {
			return false
		}
	}
}

// readToken reads a file that holds one token; "" for no file.
func readToken(path string) (string, error) {
	const most = 4 << 10
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the token that the check was registered with: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return "", fmt.Errorf("read the token that the check was registered with: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
