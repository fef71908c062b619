// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/handover"
	"github.com/outrider-mesh/outrider/hcl"
)

// upgradeWithin bounds how long a successor may take to serve: it asks Consul and
// Vault for everything anew.
const upgradeWithin = time.Minute

// Upgraded is what came of an upgrade.
type Upgraded struct {
	PID     int    // of the process that is in charge now
	Version string // that it says it has
	// Drain bounds how long this process lets its connections end.
	Drain time.Duration
}

// An upgrade asks for a successor; the answer arrives on done.
type upgrade struct{ done chan upgradeResult }

type upgradeResult struct {
	Upgraded
	err error
}

var (
	errNoUpgrade = errors.New("this process cannot be replaced while it runs: what started it watches its process ID; start the new version the way this one was started")
	errBusy      = errors.New("it is starting, stopping, or being upgraded already")
)

// Upgrade starts the program that is on disk now, with the arguments of this
// process and its listening sockets. When the new process serves, it is put in
// charge, Upgrade returns, and [Agent.Run] returns once the connections of this
// one have ended, at the latest after the drain timeout. After an error this
// process goes on as before.
func (a *Agent) Upgrade(ctx context.Context) (Upgraded, error) {
	if !a.replaceable() {
		return Upgraded{}, errNoUpgrade
	}
	u := upgrade{make(chan upgradeResult, 1)}
	select {
	case a.upgrades <- u:
	default:
		return Upgraded{}, errBusy
	}
	select {
	case r := <-u.done:
		return r.Upgraded, r.err
	case <-ctx.Done():
		return Upgraded{}, fmt.Errorf("wait for the upgrade, which goes on: %w", ctx.Err())
	}
}

// replaceable reports whether another process may take over. The first process of
// a container may not be replaced: all others end with it.
func (a *Agent) replaceable() bool {
	return a.opts.Handover != nil && !a.opts.Tracked && os.Getpid() != 1
}

// Replace is Upgrade for those who do not wait; the log says what comes of it.
func (a *Agent) Replace() {
	err := errNoUpgrade
	if a.replaceable() {
		select {
		case a.upgrades <- upgrade{make(chan upgradeResult, 1)}:
			return
		default:
			err = errBusy
		}
	}
	a.log.Error("no upgrade", "error", err)
}

// serveUpgrades does one upgrade after the other until one has succeeded, or ctx
// ends. Its result is nil unless there is a successor in charge.
func (a *Agent) serveUpgrades(ctx context.Context) *handover.Successor {
	if err := a.awaitCharge(ctx); err != nil {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-a.upgrades:
			next, err := a.handOver(ctx)
			if err != nil {
				a.log.Error("the upgrade failed; this process goes on", "error", err)
				u.done <- upgradeResult{err: err}
				continue
			}
			drain := a.stopTimes().timeout
			a.log.Info("handed over to another process; ending when the connections have", "pid", next.PID, "version", next.Version, "within", drain)
			u.done <- upgradeResult{Upgraded: Upgraded{next.PID, next.Version, drain}}
			return next
		}
	}
}

// handOver freezes what two processes must not both do, and starts the other.
func (a *Agent) handOver(ctx context.Context) (*handover.Successor, error) {
	if ready, text := a.readiness(); !ready {
		return nil, fmt.Errorf("it is not ready itself: %s", text)
	}
	a.log.Info("starting a successor")
	a.freeze()
	next, err := a.opts.Handover.Start(ctx, handover.Program{Args: os.Args[1:], Within: upgradeWithin})
	if err == nil {
		if err = next.Commit(ctx); err == nil {
			return next, nil
		}
		a.thaw(next.Plans)
		return nil, err
	}
	var plans []string
	if failed, ok := errors.AsType[*handover.StartError](err); ok {
		plans = failed.Plans
	}
	a.thaw(plans)
	return nil, err
}

// freeze leaves the registrations to the successor: it may write others, which
// must be neither undone nor followed here. Intentions, leaves and endpoints are
// followed as before.
func (a *Agent) freeze() {
	a.frozen.Store(true)
	a.registrar.Pause()
	if err := a.observed.edges.Cede(); err != nil {
		a.log.Warn("the calls seen lately are lost to the successor", "error", err)
	}
}

// thaw takes freeze back, and what a failed successor may have registered.
func (a *Agent) thaw(plans []string) {
	a.frozen.Store(false)
	a.registrar.Resume(plans)
	a.observed.edges.Resume()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.sidecars {
		if ses := s.now.Load(); ses != nil {
			ses.followRegistration()
		}
	}
}

// retire ends this process after another one has been put in charge: nobody
// elsewhere is to notice.
func (a *Agent) retire(ctx context.Context, next *handover.Successor) {
	times := a.stopTimes()
	ctx, cancel := times.bound(ctx)
	defer cancel()
	settling, settled := context.WithTimeout(ctx, settleWithin)
	next.AwaitSettled(settling)
	settled()
	// Callers elsewhere should know first.
	err := a.leave(ctx, next, times)
	a.drainAll(ctx, a.beginDrain(), times)
	if err != nil {
		err = a.leave(ctx, next, times)
	}
	if err != nil {
		a.log.Warn("could not deregister what the new configuration has no more; Consul keeps it until somebody removes it", "error", err)
	}
}

// settleWithin bounds how long a successor may take to tell systemd that it is in
// charge.
const settleWithin = 10 * time.Second

func (a *Agent) leave(ctx context.Context, next *handover.Successor, times stopTimes) error {
	ctx, cancel := context.WithTimeout(ctx, times.courtesy)
	defer cancel()
	return a.registrar.Leave(ctx, func(id string) bool { return slices.Contains(next.Serves, id) })
}

// serves is what the configuration has registered, by service ID.
func (a *Agent) serves() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []string
	for _, d := range definitions(a.config.Services) {
		ids = append(ids, d.ServiceID())
	}
	return ids
}

// succeed waits until this process is in charge. Without a predecessor it is from
// the start.
func (a *Agent) succeed(ctx context.Context) error {
	if err := a.opts.Handover.Await(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("take over: %w; this process was not in charge yet and ends", err)
	}
	if a.opts.Handover.Predecessor() {
		a.log.Info("took over from the process before this one")
	}
	close(a.charged)
	return nil
}

// awaitCharge returns nil once this process is in charge.
func (a *Agent) awaitCharge(ctx context.Context) error {
	select {
	case <-a.charged:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Agent) inCharge() bool {
	select {
	case <-a.charged:
		return true
	default:
		return false
	}
}

// claim tells the predecessor that this process serves all that it should, its
// registrations included: they must not depend on a token of the predecessor's.
func (a *Agent) claim(ctx context.Context) error {
	serves := a.serves()
	for _, id := range serves {
		if err := a.registrar.Wait(ctx, id); err != nil {
			return err
		}
	}
	if err := a.opts.Handover.Ready(a.opts.Version, serves); err != nil {
		return err
	}
	return a.awaitCharge(ctx)
}

// reloadHandler is part of the admin API on the unix socket only.
func (a *Agent) reloadHandler(w http.ResponseWriter, r *http.Request) {
	// Metadata of the cloud may take its time.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(upgradeWithin))
	err := a.ReloadFiles(r.Context())
	if mistakes, ok := errors.AsType[*hcl.Error](err); ok {
		answer(w, http.StatusConflict, strings.Join(mistakes.Lines(), "\n"))
		return
	}
	if err != nil {
		answer(w, http.StatusConflict, err.Error())
		return
	}
	answer(w, http.StatusOK, "reloaded")
}

// upgradeHandler is part of the admin API on the unix socket only: who may write
// to it may ask for what is on disk to be run.
func (a *Agent) upgradeHandler(w http.ResponseWriter, r *http.Request) {
	// A minute is longer than answers of the admin API may take otherwise.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(upgradeWithin + 10*time.Second))
	done, err := a.Upgrade(r.Context())
	if err != nil {
		answer(w, http.StatusConflict, err.Error())
		return
	}
	body, err := json.Marshal(done)
	if err != nil {
		answer(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
