// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwks

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
)

const (
	defaultTimeout  = time.Second
	maxTimeout      = 30 * time.Second
	defaultConnect  = 5 * time.Second
	defaultCacheFor = 5 * time.Minute
	minCacheFor     = 5 * time.Second
	maxCacheFor     = staleAfter / 2 // so that there is time to try again before keys are too old
	defaultBackoff  = time.Second
	backoffFactor   = 10 // of MaxBackoff to Backoff, when the former is not given

	// slowBackoff is the pace of an issuer that has been down for a while.
	slowBackoff = time.Minute
	// leastPause keeps full jitter from turning into none.
	leastPause = 100 * time.Millisecond

	// pollFile is how often a file is looked at.
	pollFile = 10 * time.Second
)

var errRunning = errors.New("keep key sets: the keeper runs already")

// Run reads key sets until ctx ends, then returns nil once every goroutine it
// started has ended. A second Run at the same time is an error.
func (k *Keeper) Run(ctx context.Context) error {
	k.mu.Lock()
	if k.running {
		k.mu.Unlock()
		return errRunning
	}
	k.running = true
	k.mu.Unlock()
	var loops sync.WaitGroup
	stop := make(map[*entry]context.CancelFunc)
	for ctx.Err() == nil {
		k.startAndStop(ctx, stop, &loops)
		select {
		case <-k.wake:
		case <-ctx.Done():
		}
	}
	for _, cancel := range stop {
		cancel()
	}
	loops.Wait()
	k.mu.Lock()
	k.running = false
	k.mu.Unlock()
	return nil
}

// startAndStop makes one loop run for each origin.
func (k *Keeper) startAndStop(ctx context.Context, stop map[*entry]context.CancelFunc, loops *sync.WaitGroup) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wanted := make(map[*entry]bool, len(k.origins))
	for at, e := range k.origins {
		wanted[e] = true
		if stop[e] == nil {
			own, cancel := context.WithCancel(ctx)
			stop[e] = cancel
			loops.Go(func() { k.keep(own, at, e) })
		}
	}
	for e, cancel := range stop {
		if !wanted[e] {
			cancel()
			delete(stop, e)
		}
	}
}

// keep is the loop of one origin.
func (k *Keeper) keep(ctx context.Context, at origin, e *entry) {
	if strings.HasPrefix(at.uri, "http://") {
		k.opts.Logger.Warn("a key set is fetched without TLS: whoever sits on the way can replace it; use https", "from", at.String())
	}
	var file fileState
	for {
		k.mu.Lock()
		remote := e.remote
		k.mu.Unlock()
		var body []byte
		var err error
		changed := true
		if at.file != "" {
			body, changed, err = file.read(at.file)
		} else {
			body, err = k.fetch(ctx, remote)
		}
		if ctx.Err() != nil {
			return
		}
		keys := ""
		if err == nil && changed {
			keys, err = publicKeys(body)
		}
		if err != nil {
			file = fileState{} // what was wrong with it may be mended without a trace in its times
			err = about(at, err)
		}
		if !sleep(ctx, k.note(at, e, keys, changed, err)) {
			return
		}
	}
}

// fetch bounds one try.
func (k *Keeper) fetch(ctx context.Context, remote RemoteKeys) ([]byte, error) {
	timeout := remote.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	timeout = min(timeout, maxTimeout)
	own, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := k.opts.Fetch(own, remote)
	if err != nil && own.Err() != nil && ctx.Err() == nil {
		return nil, &timeoutError{after: timeout}
	}
	return body, err
}

// note records the outcome of a try and returns how long to wait for the next.
func (k *Keeper) note(at origin, e *entry, keys string, changed bool, err error) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if err == nil {
		if e.failures > 0 {
			k.opts.Logger.Info("key set is fresh again", "from", at.String(), "failures", e.failures)
		}
		if changed {
			e.keys = keys
		}
		e.confirmed, e.failures, e.err = now, 0, nil
	} else {
		e.failures++
		e.err = err
		// The first and every tenth: an outage of hours must not fill a disk.
		if e.failures == 1 || e.failures%10 == 0 {
			k.opts.Logger.Warn("key set could not be read; tokens are verified with the last good one, if there is one", "error", err, "failures", e.failures)
		}
	}
	if k.origins[at] == e {
		k.deliver()
	}
	pause := nextRead(at.file != "", e.remote, e.failures, k.opts.Random())
	if left := e.confirmed.Add(staleAfter).Sub(now); e.failures > 0 && left > 0 {
		pause = min(pause, left) // so that keys are given up on time
	}
	return pause
}

// nextRead is the pause before the next try after a number of failures.
func nextRead(file bool, remote RemoteKeys, failures int, random float64) time.Duration {
	switch {
	case file:
		return pollFile
	case failures == 0:
		cacheFor := remote.CacheFor
		if cacheFor <= 0 {
			cacheFor = defaultCacheFor
		}
		cacheFor = min(max(cacheFor, minCacheFor), maxCacheFor)
		// Between 80 and 95 %: before the time is over, and not all hosts at once.
		return time.Duration(float64(cacheFor) * (0.80 + 0.15*random))
	case failures <= remote.Retries:
		base := remote.Backoff
		if base <= 0 {
			base = defaultBackoff
		}
		limit := remote.MaxBackoff
		if limit <= 0 {
			limit = min(base, slowBackoff) * backoffFactor
		}
		return max(leastPause, watch.Delay(failures, random, base, limit))
	}
	// At least half of it: these are the tries of every host of a mesh.
	return max(slowBackoff/2, time.Duration(random*float64(slowBackoff)))
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
