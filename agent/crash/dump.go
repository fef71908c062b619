// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

const (
	// maxStacks bounds the stacks of goroutines, in bytes; those beyond are cut.
	maxStacks = 8 << 20
	// askWithin is how long a part that may be the one that hangs is waited for.
	askWithin = 2 * time.Second
)

// A Dump is what is left behind.
type Dump struct {
	Time       time.Time
	Version    string
	PID        int
	Cause      string // "panic", "error" or "SIGQUIT"
	Text       string // of the panic or error
	Status     any    // of the agent; what it said when it did not answer
	Failures   any    // the last ones
	Goroutines string // stacks; the one that has panicked first
}

// Known is what is asked for a dump. Neither may hold a secret, and either may be
// nil.
type Known struct {
	Version  string
	Status   func(context.Context) any
	Failures func() any
}

// Write leaves a dump, with mode 0600, and removes all but the newest five. stack
// is that of a panic; nil for none. It returns the name of the file, "" for a nil
// Box, and is bounded in time even where a lock is never given back.
func (b *Box) Write(ctx context.Context, k Known, cause, text string, stack []byte) (string, error) {
	if b == nil {
		return "", nil
	}
	now := b.now()
	d := Dump{Time: now, Version: k.Version, PID: os.Getpid(), Cause: cause, Text: text}
	d.Goroutines = string(stack) + "\n" + stacks() // before anything else starts
	d.Status = ask(ctx, "status", func(ctx context.Context) any {
		if k.Status == nil {
			return nil
		}
		return k.Status(ctx)
	})
	d.Failures = ask(ctx, "failures", func(context.Context) any {
		if k.Failures == nil {
			return nil
		}
		return k.Failures()
	})
	body, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write a crash dump: %w", err)
	}
	name := dumpPrefix + stamp(now) + ".json"
	path := filepath.Join(b.dir, name)
	f, err := b.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("write a crash dump: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(append(body, '\n')); err != nil {
		_ = b.root.Remove(name)
		return "", fmt.Errorf("write a crash dump to %s: %w", path, err)
	}
	b.prune(dumpPrefix)
	return path, nil
}

// ask returns what a part of a broken process says, as JSON, or that it does not
// say anything: what is broken may hold the lock that the answer needs, or change
// what it has answered. A part that does not answer is left alone; the process is
// about to end.
func ask(ctx context.Context, what string, part func(context.Context) any) any {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	answer := make(chan any, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				answer <- fmt.Sprintf("the %s cannot be told: panic: %v", what, v)
			}
		}()
		body, err := json.Marshal(part(ctx))
		if err != nil {
			answer <- fmt.Sprintf("the %s cannot be told: %v", what, err)
			return
		}
		answer <- json.RawMessage(body)
	}()
	select {
	case v := <-answer:
		return v
	case <-ctx.Done():
		return fmt.Sprintf("the %s was not told within %s: something holds its lock", what, askWithin)
	}
}

// stacks returns those of all goroutines.
func stacks() string {
	for size := 64 << 10; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size >= maxStacks {
			return string(buf[:n])
		}
	}
}
