// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/outrider-mesh/outrider/agent/limits"
)

// A calm finds the moments at which traffic has come to rest.
type calm struct {
	served int64
	busy   bool
}

// few is what health checks make of connections and requests between two looks:
// with no more than that, traffic rests.
const few = 32

// falls reports whether traffic has come to rest: hardly anything was served since
// the last look, for the first time after more was.
func (c *calm) falls(served int64) bool {
	moved := max(served-c.served, c.served-served) > few
	c.served = served
	rested := c.busy && !moved
	c.busy = moved
	return rested
}

// giveBack returns memory to the system when traffic has come to rest, and once
// after the start: what start and peaks took would stay with the process for
// minutes, and a host runs a sidecar for each of its tasks.
func (a *Agent) giveBack(ctx context.Context) error {
	const every = 4 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	c := calm{busy: true}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if c.falls(a.served()) {
			debug.FreeOSMemory()
			if err := limits.ForgetText(); err != nil {
				a.log.Debug("the pages of the program's code stay where they are", "error", err)
			}
		}
	}
}

// served counts connections and requests of all sidecars since they began.
func (a *Agent) served() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var n int64
	for _, s := range a.sidecars {
		if ses := s.now.Load(); ses != nil {
			n += ses.proxy.Served()
		}
	}
	return n
}
