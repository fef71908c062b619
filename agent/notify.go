// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A State is what a service manager wants to know.
type State struct {
	Ready    bool
	Main     bool // this process is now the one to watch, not the one that started it
	Stopping bool
	Text     string // one line for people
}

// Systemd tells systemd of a state (sd_notify(3)); without systemd it does
// nothing.
func Systemd(s State) {
	text := ""
	switch {
	case s.Stopping:
		text = daemon.SdNotifyStopping
	case s.Ready:
		text = daemon.SdNotifyReady
	}
	if s.Main {
		text += "\nMAINPID=" + strconv.Itoa(os.Getpid())
	}
	if s.Text != "" {
		text += "\nSTATUS=" + s.Text
	}
	// Nobody listening is the usual case outside of systemd, and a service
	// manager that does not hear us must not keep us from serving.
	_, _ = daemon.SdNotify(false, text)
}

// SystemdReloading and SystemdReloaded frame a reload for systemd.
func SystemdReloading() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReloading) }

// SystemdReloaded ends what SystemdReloading began.
func SystemdReloaded() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }

// announce tells the service manager when all sidecars have become ready, and
// what is missing until then, and feeds its watchdog.
func (a *Agent) announce(ctx context.Context) error {
	tick := time.NewTicker(announceEvery(false))
	defer tick.Stop()
	ready, last := false, ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, text := a.readiness()
		if !a.inCharge() {
			if !now {
				continue // the predecessor speaks
			}
			if err := a.claim(ctx); err != nil {
				a.log.Debug("not in charge", "error", err)
				return nil // succeed says so
			}
		}
		if now && !ready || text != last {
			a.opts.Notify(State{Ready: now && !ready, Main: now && !ready && a.opts.Handover.Predecessor(), Text: text})
		}
		if now && !a.announced.Swap(true) {
			a.opts.Handover.Settled()
		}
		if now && !ready {
			tick.Reset(announceEvery(true))
		}
		ready, last = ready || now, text
		if os.Getenv("WATCHDOG_USEC") != "" {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

// announceEvery is how often there is a look: while somebody waits for us to
// become ready, often; afterwards seldom, as each look wakes an idle process.
func announceEvery(ready bool) time.Duration {
	usual := 100 * time.Millisecond
	if ready {
		usual = 2 * time.Second
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return usual
	}
	return min(usual, interval/3)
}
