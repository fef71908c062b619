// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/jobs"
)

const (
	// A task may be anything that calls itself a sidecar, so what it says is
	// bounded in time and size.
	askSidecarFor    = 2 * time.Second
	maxSidecarAnswer = 4 << 20
	askAtOnce        = 8

	shortID = 8 // characters of an allocation's ID that people read
)

// A hostView is the Nomad half of a status.
type hostView struct {
	NodeID   string
	NodeName string
	Note     string `json:",omitempty"` // that and why sidecars may be missing
	Sidecars []hostSidecar
}

// A hostSidecar is a sidecar of Nomad with what it says about itself.
type hostSidecar struct {
	jobs.HostSidecar
	// Problem says why there is no status; "" when there is one.
	Problem string `json:",omitempty"`
	// Status is an agent.Status as the sidecar gave it.
	Status json.RawMessage `json:",omitempty"`

	read *agent.Status // of Status
}

// hostStatus shows the agent of this host and the sidecars of Nomad. Either may
// be missing, not both.
func (i invocation) hostStatus(ctx context.Context, q statusQuery) int {
	body, agentErr := askAgent(ctx, defaultAdmin, statusPath)
	view, nomadErr := viewHost(ctx)
	switch {
	case agentErr != nil && nomadErr != nil:
		return i.fail("status: %v\noutrider: status: nor are there sidecars of Nomad: %v", agentErr, nomadErr)
	case nomadErr != nil:
		// Most hosts of an agent have no Nomad; only one that was named, or one
		// that refuses, is missed.
		_, unreachable := errors.AsType[*net.OpError](nomadErr)
		if os.Getenv("NOMAD_ADDR") != "" || !unreachable {
			_, _ = fmt.Fprintf(i.stderr, "outrider: status: the sidecars of Nomad are not shown: %s\n", printable(nomadErr.Error()))
		}
		return i.agentStatus(body, q.asJSON)
	case q.asJSON:
		return i.printHostJSON(body, view)
	}
	if agentErr == nil {
		s, err := readStatus(body)
		if err != nil {
			return i.fail("status: %v", err)
		}
		printStatus(i.stdout, s, time.Now())
		_, _ = fmt.Fprintln(i.stdout)
	}
	printHost(i.stdout, view, time.Now())
	return exitOK
}

// allocStatus shows the sidecars of one allocation in full.
func (i invocation) allocStatus(ctx context.Context, q statusQuery) int {
	if q.admin != "" {
		return i.misuse("status: give -alloc or -admin (OUTRIDER_ADMIN), not both: an allocation's sidecar has an admin API of its own")
	}
	view, err := viewHost(ctx)
	if err != nil {
		return i.fail("status: %v", err)
	}
	ids := make(map[string]bool)
	view.Sidecars = slices.DeleteFunc(view.Sidecars, func(s hostSidecar) bool { return !strings.HasPrefix(s.Alloc, q.alloc) })
	for _, s := range view.Sidecars {
		ids[s.Alloc] = true
	}
	switch {
	case len(ids) == 0:
		return i.fail("status: no allocation with a sidecar runs on this node whose ID begins with %q; \"outrider status\" lists them%s", q.alloc, optional(". ", view.Note))
	case len(ids) > 1:
		return i.fail("status: %d allocations have an ID that begins with %q; give more of it", len(ids), q.alloc)
	case q.asJSON:
		return i.printHostJSON(nil, view)
	}
	p, code := printer{i.stdout, time.Now()}, exitOK
	for n, s := range view.Sidecars {
		if n > 0 {
			p.line(0, "")
		}
		p.line(0, "%s", s.title(s.Alloc))
		if s.read == nil {
			p.line(1, "%s", s.Problem)
			code = exitFailed
			continue
		}
		printStatus(i.stdout, *s.read, p.now)
	}
	return code
}

// printHostJSON prints the status of the agent, as it is without Nomad, with the
// field Nomad added.
func (i invocation) printHostJSON(body []byte, view *hostView) int {
	out := make(map[string]json.RawMessage)
	if body != nil {
		if err := json.Unmarshal(body, &out); err != nil {
			return i.fail("status: understand the agent's answer: %v; client and agent may be of different versions", err)
		}
	}
	nomad, err := json.Marshal(view)
	if err != nil {
		return i.fail("status: encode the sidecars of Nomad: %v", err)
	}
	out["Nomad"] = nomad
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return i.fail("status: encode the status: %v", err)
	}
	_, _ = i.stdout.Write(append(harmless(text), '\n'))
	return exitOK
}

// viewHost asks Nomad for the sidecars of this host and each of them for its
// status.
func viewHost(ctx context.Context) (*hostView, error) {
	client, err := jobs.NewClient()
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	host, err := client.Host(asking, os.DirFS("/"))
	if err != nil {
		return nil, err
	}
	return &hostView{NodeID: host.NodeID, NodeName: host.NodeName, Note: host.Note, Sidecars: askSidecars(ctx, host.Sidecars)}, nil
}

// askSidecars asks each for its status, a few at a time.
func askSidecars(ctx context.Context, all []jobs.HostSidecar) []hostSidecar {
	out := make([]hostSidecar, len(all))
	var next atomic.Int64
	var askers sync.WaitGroup
	for range min(askAtOnce, len(all)) {
		askers.Go(func() {
			for n := next.Add(1) - 1; int(n) < len(all); n = next.Add(1) - 1 {
				out[n] = askSidecar(ctx, all[n])
			}
		})
	}
	askers.Wait()
	return out
}

// askSidecar asks one sidecar for its status.
func askSidecar(ctx context.Context, s jobs.HostSidecar) hostSidecar {
	out := hostSidecar{HostSidecar: s}
	if s.State != "running" {
		out.Problem = "the task is " + s.State
		return out
	}
	if s.Socket == "" {
		out.Problem = "the folder of the allocation is not known: set data_dir or client.alloc_dir in the Nomad agent's configuration, or run this as root beside it"
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, askSidecarFor)
	defer cancel()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return agent.DialAdmin(ctx, s.Socket) }
	body, err := askAdmin(ctx, dial, "outrider", statusPath, maxSidecarAnswer)
	if err != nil {
		out.Problem = noStatus(s.Socket, err)
		return out
	}
	status, err := readStatus(body)
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Status, out.read = body, &status
	return out
}

// noStatus says why a task's socket did not answer.
func noStatus(socket string, err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "its socket may not be read by this user: run this as root"
	case errors.Is(err, fs.ErrNotExist):
		alloc := filepath.Dir(filepath.Dir(filepath.Dir(socket)))
		if _, err := os.Stat(alloc); errors.Is(err, fs.ErrNotExist) {
			return "the folder " + alloc + " is not on this host: does NOMAD_ADDR name the agent of another one?"
		}
		return "no Outrider socket: another proxy, or not started"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer on its socket within %s", askSidecarFor)
	}
	return "its socket does not answer: " + err.Error()
}

// title names a sidecar in one line; alloc is the ID as it is to be shown.
func (s hostSidecar) title(alloc string) string {
	namespace := ""
	if s.Namespace != "default" {
		namespace = fmt.Sprintf(" (namespace %s)", s.Namespace)
	}
	return fmt.Sprintf("%s/%s%s  alloc %s  task %s (%s)", s.Job, s.Group, namespace, alloc, s.Task, cmp.Or(s.Driver, "no driver"))
}
