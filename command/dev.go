// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"errors"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/internal/dev"
	"github.com/outrider-mesh/outrider/version"
)

func runDev(i invocation) int {
	fs := i.flags("dev", "[-once]")
	once := fs.Bool("once", false, "end after the tour: exit 0 when every step behaved, 1 when one did not")
	verbose := fs.Bool("verbose", false, "print the agent's log as well")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	log := hclog.NewNullLogger()
	if *verbose {
		log = newLogger(hcl.Log{Level: "debug"}, i.stderr)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := dev.Run(ctx, dev.Options{Out: i.stdout, Once: *once, Logger: log, Version: version.String()})
	if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		return i.fail("%v; run again with -verbose to see the agent's log", err)
	}
	return exitOK
}
