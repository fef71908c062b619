// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

// hasten has Consul look at the sidecar as soon as it listens, where that has
// been asked for. That it cannot is no fault: Consul looks by itself, later.
func (s *session) hasten(ctx context.Context) error {
	if !s.ref.Hasten {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.listening:
	}
	token, err := readToken(s.ref.CheckToken)
	passes := false
	if err == nil {
		passes, err = s.agent.consul.HastenCheck(ctx, s.id(), token)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.log.Info("callers elsewhere may see this sidecar only after the next interval of its check", "error", err)
	case passes:
		s.log.Info("Consul's check of the sidecar passes; callers elsewhere see it")
	}
	return nil
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
