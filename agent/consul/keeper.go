// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
)

const (
	// A token is replaced between half and three quarters of its life.
	earliestLogin, latestLogin = 0.50, 0.75
	// settle is how long after a login Consul may not know the new token: its
	// servers learn of it one after the other. Nor is there another login within
	// it, however short the life of a token is said to be.
	settle = 3 * time.Second
	// maxLoginGap bounds the time between two logins that were asked for by
	// Consul not knowing a token; it doubles while tokens die young.
	maxLoginGap = 5 * time.Minute
	// maxFormer bounds the tokens that wait for their logout; what is beyond it
	// is left to its own end.
	maxFormer = 8
	// logoutTries is how often a logout is tried, logoutAgain apart.
	logoutTries = 5
	logoutAgain = 10 * time.Second
	// farewell bounds the logouts at the end of a process, unless Config does.
	farewell = 3 * time.Second
)

// A loginKeeper is the state of login.run: when to log in, and which tokens to
// log out. It belongs to that goroutine.
type loginKeeper struct {
	*login
	loginAt  time.Time // zero: not planned
	loggedIn time.Time
	gap      time.Duration
	since    time.Time // of the first failure in a row
	now      grant
	former   []former
}

// A former token was replaced and may still be in use by queries that block.
type former struct {
	grant
	at    time.Time // of its logout
	ends  time.Time // zero: never
	tries int
}

// run logs in and replaces the token in time, and at once when Consul does not
// know it; it tries again for ever. Replaced tokens are logged out when no
// query can use them any more, and the last one at the end, unless a service
// is still registered with it: Consul's agent publishes the health of the
// service with that token.
func (l *login) run(ctx context.Context) {
	k := &loginKeeper{login: l, loginAt: time.Now(), gap: settle}
	defer k.leave(ctx)
	for {
		timer := time.NewTimer(k.wait(time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case token := <-l.dead:
			k.died(token, time.Now())
		}
		timer.Stop()
		if at := k.loginAt; !at.IsZero() && !at.After(time.Now()) {
			k.logIn(ctx)
		}
		k.logOut(ctx, time.Now())
	}
}

// wait is how long nothing is to be done.
func (k *loginKeeper) wait(now time.Time) time.Duration {
	wait := time.Hour // it has no meaning: all is well
	if !k.loginAt.IsZero() {
		wait = min(wait, k.loginAt.Sub(now))
	}
	for _, f := range k.former {
		wait = min(wait, f.at.Sub(now))
	}
	return max(wait, 0)
}

// died plans a login because Consul does not know a token.
func (k *loginKeeper) died(token string, now time.Time) {
	k.mu.Lock()
	failing := k.failures > 0
	k.mu.Unlock()
	age := now.Sub(k.loggedIn)
	if token != k.now.token || failing || age < settle {
		return // It was replaced, or a login is due; or it may just be too new.
	}
	at := now
	if age < k.gap {
		at = k.loggedIn.Add(k.gap)
	}
	if !k.loginAt.IsZero() && k.loginAt.Before(at) {
		return
	}
	k.logger.Warn("Consul does not know the ACL token of the login any more: it was deleted or has expired; logging in again", "auth_method", k.cfg.AuthMethod, "accessor", k.now.accessor, "in", at.Sub(now).Round(time.Millisecond))
	if age < 2*k.gap {
		k.gap = min(2*k.gap, maxLoginGap)
	} else {
		k.gap = settle
	}
	k.loginAt = at
}

func (k *loginKeeper) logIn(ctx context.Context) {
	// Its life begins before the answer is here.
	began := time.Now()
	g, err := k.exchange(ctx)
	if ctx.Err() != nil {
		if err == nil {
			k.former = append(k.former, former{grant: g}) // for leave
		}
		return
	}
	if err != nil {
		k.failed(err, time.Now())
		return
	}
	k.adopt(g, began)
}

func (k *loginKeeper) failed(err error, now time.Time) {
	k.mu.Lock()
	if k.failures == 0 {
		k.since = now
	}
	k.failures++
	failures := k.failures
	k.problem = err
	k.mu.Unlock()
	delay := max(watch.Delay(failures, k.pace.Random(), k.pace.BackoffBase, k.pace.BackoffLimit), 100*time.Millisecond)
	k.loginAt = now.Add(delay)
	log := k.logger.Debug
	if failures == 1 || failures%10 == 0 {
		log = k.logger.Warn
	}
	log("cannot log in to Consul, keeping the token in use", "error", err, "failures", failures, "retry", delay.Round(time.Millisecond))
}

// adopt puts a new token into use and plans its successor.
func (k *loginKeeper) adopt(g grant, began time.Time) {
	var ends time.Time
	k.loginAt = time.Time{}
	if g.life > 0 {
		ends = began.Add(g.life)
		part := earliestLogin + (latestLogin-earliestLogin)*k.pace.Random()
		k.loginAt = began.Add(max(time.Duration(float64(g.life)*part), settle))
	}
	k.retire(began)
	k.mu.Lock()
	failures := k.failures
	k.ends, k.lastSuccess, k.failures, k.problem = ends, time.Now(), 0, nil
	k.mu.Unlock()
	k.now, k.loggedIn = g, time.Now()
	k.seat.take(g.token, g.life)
	if failures > 0 {
		k.logger.Info("Consul lets us log in again", "failures", failures, "after", time.Since(k.since).Round(time.Second))
	}
	k.logger.Info("logged in to Consul", "auth_method", k.cfg.AuthMethod, "accessor", g.accessor, "life", g.life)
}

// retire plans the logout of the token that is being replaced.
func (k *loginKeeper) retire(now time.Time) {
	if k.now.token == "" {
		return
	}
	lasts := blockFor
	if p := k.seat.patience(); p > 0 {
		lasts = min(lasts, p)
	}
	k.mu.Lock()
	ends := k.ends
	k.mu.Unlock()
	if len(k.former) == maxFormer {
		k.logger.Warn("too many tokens wait for their logout; the oldest is left to its own end", "accessor", k.former[0].accessor)
		k.former = k.former[1:]
	}
	// Consul blocks for up to a sixteenth longer than it was asked to.
	k.former = append(k.former, former{grant: k.now, ends: ends, at: now.Add(lasts + lasts/16 + 5*time.Second)})
}

// logOut does the logouts that are due.
func (k *loginKeeper) logOut(ctx context.Context, now time.Time) {
	var later []former
	for _, f := range k.former {
		switch {
		case !f.ends.IsZero() && now.After(f.ends):
			continue // Consul has forgotten it by itself.
		case f.at.After(now):
			later = append(later, f)
			continue
		}
		err := k.forget(ctx, f.grant)
		if err == nil {
			continue
		}
		f.tries++
		if f.tries >= logoutTries {
			k.logger.Warn("cannot log a replaced token out; Consul keeps it until it ends", "accessor", f.accessor, "error", err)
			continue
		}
		f.at = now.Add(logoutAgain)
		later = append(later, f)
	}
	k.former = later
}

// forget makes one logout. A token that is gone already counts as logged out.
func (k *loginKeeper) forget(ctx context.Context, g grant) error {
	_, err := k.post(ctx, k.out, g.token, nil)
	if refused, ok := errors.AsType[*statusError](err); ok && unknownToken(refused.code, refused.body) {
		err = nil
	}
	if err == nil {
		k.logger.Debug("logged out of Consul", "accessor", g.accessor)
	}
	return err
}

// leave logs out what is left when the process ends.
func (k *loginKeeper) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.farewell)
	defer cancel()
	all := k.former
	if n := k.seat.held(); n > 0 {
		k.logger.Info("not logging out of Consul: services stay registered with the token", "accessor", k.now.accessor, "services", n)
	} else if k.now.token != "" {
		all = append(all, former{grant: k.now})
	}
	for _, f := range all {
		if err := k.forget(ctx, f.grant); err != nil {
			k.logger.Warn("cannot log out of Consul, which keeps the token until it ends", "accessor", f.accessor, "error", err)
		}
	}
}
