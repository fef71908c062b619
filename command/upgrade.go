// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
)

// exitRefused is the exit code of an upgrade that the running agent refused or took
// back: it serves on, and a restart may not.
const exitRefused = 3

// upgradePatience is longer than an agent gives its successor.
const upgradePatience = 75 * time.Second

func runUpgrade(i invocation) int {
	socket, code, ok := i.adminSocket("upgrade")
	if !ok {
		return code
	}
	body, err := postAdmin(context.Background(), socket, "/v1/upgrade")
	if _, refused := errors.AsType[*refusal](err); refused {
		i.fail("upgrade: %v", err)
		return exitRefused
	}
	if err != nil {
		return i.fail("upgrade: %v", err)
	}
	var done agent.Upgraded
	if err := json.Unmarshal(body, &done); err != nil {
		return i.fail("upgrade: understand the agent's answer: %v; its log says what came of it", err)
	}
	done.Version = printable(done.Version)
	_, _ = fmt.Fprintf(i.stdout, "%s, process %d, has taken over; connections of the old process end by themselves, at the latest in %s\n", done.Version, done.PID, done.Drain)
	return exitOK
}

func runReload(i invocation) int {
	socket, code, ok := i.adminSocket("reload")
	if !ok {
		return code
	}
	_, err := postAdmin(context.Background(), socket, "/v1/reload")
	if refused, ok := errors.AsType[*refusal](err); ok {
		for line := range strings.Lines(refused.text) {
			i.fail("%s", printable(strings.TrimSpace(line)))
		}
		return i.fail("reload: refused; the running configuration stays")
	}
	if err != nil {
		return i.fail("reload: %v", err)
	}
	return exitOK
}

// adminSocket reads the flags of a command that changes an agent. Only on the
// unix socket the agent lets itself be changed.
func (i invocation) adminSocket(command string) (socket string, code int, ok bool) {
	fs := i.flags(command, "[-admin ADDRESS]")
	admin := fs.String("admin", cmp.Or(os.Getenv("OUTRIDER_ADMIN"), defaultAdmin), "`ADDRESS` of the agent's admin socket (OUTRIDER_ADMIN)")
	if code, ok := i.parse(fs); !ok {
		return "", code, false
	}
	if fs.NArg() > 0 {
		return "", i.misuse("%s: unexpected argument %q", command, fs.Arg(0)), false
	}
	socket, ok = strings.CutPrefix(*admin, "unix://")
	if !ok {
		return "", i.misuse("%s: %s is no unix socket, and only there the agent takes this; send SIGHUP to the process to reload, SIGUSR2 to upgrade", command, *admin), false
	}
	return socket, exitOK, true
}

// refusal is what an agent says that does not do what it was asked.
type refusal struct{ text string }

func (r *refusal) Error() string { return "the running process goes on: " + printable(r.text) }

// postAdmin asks the agent at a socket for a change, and returns its answer, or a
// refusal.
func postAdmin(ctx context.Context, socket, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upgradePatience)
	defer cancel()
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return agent.DialAdmin(ctx, socket) },
		MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://outrider"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s: %w; is it running, and may you use its socket? -admin names another", socket, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask the agent at %s: %w; its log says what came of it", socket, err)
	case res.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("the agent at %s is of a version that does not take this; restart it", socket)
	case res.StatusCode != http.StatusOK:
		return nil, &refusal{strings.TrimSpace(string(body))}
	}
	return body, nil
}
