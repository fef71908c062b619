// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent"
)

// inRoom prepares an agent for what the system gives the process: the collector
// gets its limit, unless GOMEMLIMIT is set, before anything grows. task is what a
// scheduler says that the process may use, in bytes; 0 for nothing.
func inRoom(task int64, prepare func(context.Context, hclog.Logger) (agent.Options, error)) func(context.Context, hclog.Logger) (agent.Options, error) {
	return func(ctx context.Context, log hclog.Logger) (agent.Options, error) {
		room, failed := agent.MeasureRoom(task)
		if failed != nil {
			log.Warn("cannot read all limits of this process; set GOMEMLIMIT and limits { memory_mb } if there are any", "error", failed)
		}
		if soft := room.SoftMemory(); soft > 0 {
			debug.SetMemoryLimit(soft)
		}
		opts, err := prepare(ctx, log)
		opts.Room = room
		return opts, err
	}
}
