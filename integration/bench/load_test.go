// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A client sends one request after the other.
type client interface {
	// call sends one request and waits for its answer, which must be right.
	call(ctx context.Context) error
	close()
}

// A generator gets ready to load an address with a number of requests at a time.
type generator func(ctx context.Context, address string, atATime int) (loader, error)

// A loader sends requests until ctx ends, once, and tells when each began and
// ended. seen may be called from several goroutines, but from one at a time for
// each slot, of which there are as many as requests at a time. It returns nil if
// every request that ended before ctx was answered rightly.
type loader func(ctx context.Context, seen func(slot int, began, ended time.Time)) error

// connections is how many connections the generators of multiplexed protocols
// use at most, so that a proxy whose threads have connections of their own can
// use them all.
const connections = 4

// lastAnswer is how long the last answers may take.
const lastAnswer = 5 * time.Second

// afterwards is a context that ends later than ctx, so that the last requests
// are not cut, and has no deadline that would be sent along.
func afterwards(ctx context.Context) (later context.Context, done func()) {
	later, hang := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastAnswer, hang) })
	return later, func() {
		stop()
		hang()
	}
}

// clients is the generator of clients with one request at a time each. Several
// of them may share a connection.
func clients(open func(ctx context.Context, address string, n int) ([]client, error)) generator {
	return func(ctx context.Context, address string, atATime int) (loader, error) {
		all, err := open(ctx, address, atATime)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, seen func(int, time.Time, time.Time)) error {
			return runClients(ctx, all, seen)
		}, nil
	}
}

func runClients(ctx context.Context, all []client, seen func(int, time.Time, time.Time)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	later, done := afterwards(ctx)
	defer done()
	var running sync.WaitGroup
	for slot, c := range all {
		running.Go(func() {
			defer c.close()
			defer context.AfterFunc(later, c.close)()
			for ctx.Err() == nil {
				began := time.Now()
				err := c.call(later)
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					cancel(fmt.Errorf("request of slot %d: %w", slot, err))
					return
				}
				seen(slot, began, time.Now())
			}
		})
	}
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// A sample is what one round saw.
type sample struct {
	requests  int
	span      time.Duration
	latencies []time.Duration // sorted
	used      usage
}

// load runs a generator for a while and counts what began and ended within the
// span. measure is called at its beginning and its end.
func load(ctx context.Context, run generator, address string, atATime int, warm, span time.Duration, measure func() usage) (sample, error) {
	send, err := run(ctx, address, atATime)
	if err != nil {
		return sample{}, err
	}
	begin := time.Now().Add(warm)
	end := begin.Add(span)
	// The generator goes on a little so that the load is whole until the end.
	ctx, cancel := context.WithDeadline(ctx, end.Add(20*time.Millisecond))
	defer cancel()
	slots := make([][]time.Duration, atATime)
	done := make(chan error, 1)
	go func() {
		done <- send(ctx, func(slot int, began, ended time.Time) {
			if !began.Before(begin) && ended.Before(end) {
				slots[slot] = append(slots[slot], ended.Sub(began))
			}
		})
	}()
	until(ctx, begin)
	before := measure()
	until(ctx, end)
	after := measure()
	if err := <-done; err != nil {
		return sample{}, err
	}
	s := sample{span: span, used: after.less(before)}
	for _, l := range slots {
		s.latencies = append(s.latencies, l...)
	}
	slices.Sort(s.latencies)
	s.requests = len(s.latencies)
	if s.requests == 0 {
		return s, fmt.Errorf("no request of %d at a time to %s was answered in %v", atATime, address, span)
	}
	return s, nil
}

func until(ctx context.Context, t time.Time) {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// perSecond is the number of requests per second.
func (s sample) perSecond() float64 { return float64(s.requests) / s.span.Seconds() }

// quantile is the latency that a part q of the requests did not exceed.
func (s sample) quantile(q float64) time.Duration {
	at := int(q * float64(len(s.latencies)))
	return s.latencies[min(at, len(s.latencies)-1)]
}

// perThousand is the CPU time of a process for 1,000 requests, in milliseconds.
func (s sample) perThousand(cpu time.Duration) float64 {
	return cpu.Seconds() * 1000 * 1000 / float64(s.requests)
}
