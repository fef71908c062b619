// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/crash"
)

// settled is how long an agent runs before its end by an error is worth a dump:
// what keeps it from starting is in the log, and may come again every few seconds.
const settled = 10 * time.Second

// A lastWord is what is left behind when an agent does not end as it should.
type lastWord struct {
	box   *crash.Box // nil where there is no place for it
	known crash.Known
	log   hclog.Logger
	begun time.Time
}

// lastWords opens the box of this process. Without one the agent runs as well.
func lastWords(log hclog.Logger, known crash.Known) *lastWord {
	log = log.Named("crash")
	box, err := crash.Open(crash.Directory(os.Getenv), log)
	if err != nil {
		log.Warn("nothing will be left behind if this process ends by a fault", "error", err)
	}
	return &lastWord{box: box, known: known, log: log, begun: time.Now()}
}

// stateDirectory is where the state of the agent is kept; "" where there is no place
// that nobody else may write to, of which lastWords tells.
func stateDirectory() string {
	dir := crash.Directory(os.Getenv)
	if dir == "" || crash.Check(dir) != nil {
		return ""
	}
	return dir
}

func (l *lastWord) close() { l.box.Close() }

// run runs f. A panic leaves a dump and goes on.
func (l *lastWord) run(f func() error) error {
	defer func() {
		if v := recover(); v != nil {
			l.write("panic", fmt.Sprint(v), debug.Stack())
			panic(v)
		}
	}()
	return f()
}

// failed leaves a dump of an agent that ended by an error after it had begun.
func (l *lastWord) failed(err error) {
	if time.Since(l.begun) >= settled {
		l.write("error", err.Error(), nil)
	}
}

// quit leaves a dump, and has SIGQUIT do what it does to every program in Go:
// print the stacks of all goroutines, and end it.
func (l *lastWord) quit() {
	l.write("SIGQUIT", "", nil)
	l.box.Close() // the next start has no fault to tell of
	signal.Reset(syscall.SIGQUIT)
	_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
}

func (l *lastWord) write(cause, text string, stack []byte) {
	path, err := l.box.Write(context.Background(), l.known, cause, text, stack)
	switch {
	case err != nil:
		l.log.Error("what this process knows at its end is lost", "error", err)
	case path != "":
		l.log.Error("this process ends by a fault, and has left what it knows", "file", path)
	}
}
