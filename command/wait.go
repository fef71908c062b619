// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/outrider-mesh/outrider/agent"
)

// runWait is for a task that must not begin before the sidecar serves.
func runWait(i invocation) int {
	fs := i.flags("wait", "[-timeout TIME] [-addr ADDRESS]")
	timeout := fs.Duration("timeout", time.Minute, "`TIME` to wait at most")
	addr := fs.String("addr", "", "`ADDRESS` of the sidecar's ready or admin listener: host:port or unix:///path; else the ready addresses that Nomad tells the sidecar's own task, else OUTRIDER_ADMIN, else every upstream of the task's group must accept connections")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if fs.NArg() > 0 {
		return i.misuse("wait: unexpected argument %q", fs.Arg(0))
	}
	addresses := []string{*addr}
	if *addr == "" {
		addresses = agent.ReadyAddresses(os.Environ())
	}
	if admin := os.Getenv("OUTRIDER_ADMIN"); len(addresses) == 0 && admin != "" {
		addresses = []string{admin}
	}
	ask := waitReady
	if len(addresses) == 0 {
		addresses, ask = agent.UpstreamAddresses(os.Environ()), waitListening
	}
	if len(addresses) == 0 {
		return i.misuse("wait: for whom? give -addr HOST:PORT, as in -admin of the sidecar; Nomad tells other tasks of the group only where upstreams are, and there are none")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	for _, address := range addresses {
		if err := ask(ctx, address); err != nil {
			return i.fail("wait: the sidecar at %s was not ready within %s: %v; see the sidecar's own log", address, *timeout, err)
		}
	}
	return exitOK
}

// waitReady asks a ready listener until the answer is yes.
func waitReady(ctx context.Context, address string) error {
	client := readyClient(address)
	defer client.CloseIdleConnections()
	return again(ctx, func(ctx context.Context) error { return askReady(ctx, client) })
}

// waitListening tries the listener of an upstream until it accepts. A sidecar
// opens those when it knows where calls go.
func waitListening(ctx context.Context, address string) error {
	return again(ctx, func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// again asks until the answer is nil. Its error is that of the last answer.
func again(ctx context.Context, ask func(context.Context) error) error {
	const pace, each = 200 * time.Millisecond, 5 * time.Second
	last := errors.New("it was not asked yet")
	for {
		asking, cancel := context.WithTimeout(ctx, each)
		err := ask(asking)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() == nil:
			last = err
		}
		timer := time.NewTimer(pace)
		select {
		case <-ctx.Done():
			timer.Stop()
			return last
		case <-timer.C:
		}
	}
}

// readyClient connects to the address whatever the URL says, and through no
// proxy: it is on this host.
func readyClient(address string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if path, ok := strings.CutPrefix(address, "unix://"); ok {
			return agent.DialAdmin(ctx, path)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}}}
}

func askReady(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://outrider/ready", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
