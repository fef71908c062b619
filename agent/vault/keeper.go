// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"fmt"
	"time"
)

const (
	// pollInterval is how often credential files are read again.
	pollInterval = 5 * time.Second
	// refusedGap is the least time between two logins that a 403 asks for: a
	// policy that lacks a path must not make a new token at each attempt. It
	// doubles while new tokens are refused too.
	refusedGap    = time.Minute
	maxRefusedGap = 16 * time.Minute
	// goneGap takes the place of refusedGap when Vault does not know the token:
	// nothing but a login helps then.
	goneGap = 5 * time.Second
	// longestWait bounds the sleep of Run; it has no other meaning.
	longestWait = time.Hour
)

// A keeper is the state of Client.Run: when to log in and when to renew. It
// belongs to that goroutine. Zero times mean: not planned.
type keeper struct {
	client  *Client
	loginAt time.Time
	renewAt time.Time

	seen      credentials // of the last attempt to log in
	loggedIn  time.Time
	denied    uint64        // the generation that was last refused
	gone      uint64        // the generation that Vault last did not know
	gap       time.Duration // since the login before it
	current   grant
	until     time.Time // when the token ends; zero: never
	logins    streak
	renewals  streak
	files     streak
	nearLimit bool // the maximum TTL of a given token was logged
}

func due(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

// step does what is due.
func (k *keeper) step(ctx context.Context) {
	if due(k.renewAt, time.Now()) {
		k.renew(ctx)
	}
	if due(k.loginAt, time.Now()) && ctx.Err() == nil {
		k.logIn(ctx)
	}
}

func (k *keeper) wait(now time.Time) time.Duration {
	wait := longestWait
	for _, at := range []time.Time{k.loginAt, k.renewAt} {
		if !at.IsZero() {
			wait = min(wait, at.Sub(now))
		}
	}
	return max(wait, 0)
}

func (k *keeper) logIn(ctx context.Context) {
	c := k.client
	creds, err := c.cfg.Auth.read()
	var g grant
	if err == nil {
		k.seen = creds
		g, err = c.logIn(ctx, creds)
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	if err != nil {
		k.loginFailed(err, now)
		return
	}
	if failures, lasted := k.logins.end(now); failures > 0 {
		c.logger.Info("Vault lets us log in again", "failures", failures, "after", lasted.Round(time.Second))
	}
	k.renewals, k.files, k.nearLimit = streak{}, streak{}, false
	k.loggedIn, k.current = now, g
	c.adopt(g.token, creds)
	c.logger.Info("logged in to Vault", "address", c.cfg.Address, "method", c.cfg.Auth.Method, "mount", c.cfg.Auth.mount(), "ttl", g.ttl, "renewable", g.renewable)
	k.plan(now)
}

func (k *keeper) loginFailed(err error, now time.Time) {
	c := k.client
	c.failed(err)
	loud := k.logins.fail(now)
	c.report(func(s *TokenStatus) { s.Failures, s.Err = k.logins.failures, err })
	delay := backoff(k.logins.failures, c.random())
	k.loginAt = now.Add(delay)
	log := c.logger.Debug
	if loud {
		log = c.logger.Warn
	}
	log("cannot log in to Vault", "error", err, "failures", k.logins.failures, "retry", delay.Round(time.Millisecond))
}

// plan sets the times that follow from a new grant.
func (k *keeper) plan(now time.Time) {
	g := k.current
	k.loginAt, k.renewAt, k.until = time.Time{}, time.Time{}, time.Time{}
	if g.ttl > 0 {
		k.until = now.Add(g.ttl)
	}
	k.client.report(func(s *TokenStatus) {
		s.LastSuccess, s.Expires = now, k.until
		if k.logins.failures == 0 { // else a login with newer credentials is still to succeed
			s.Failures, s.Err = 0, nil
		}
	})
	if g.ttl == 0 {
		return
	}
	early := now.Add(renewToken(g.ttl, k.client.random()))
	switch {
	case g.renewable:
		k.renewAt = early
	case k.client.cfg.Auth.Method == TokenMethod:
		// A token that we were given cannot be made anew. Looking at it when it
		// has ended says so in the log and in status.
		k.loginAt = k.until
		k.warnLimit("it cannot be renewed")
	default:
		k.loginAt = early
	}
}

func (k *keeper) renew(ctx context.Context) {
	c := k.client
	secret, err := c.authed.Auth().Token().RenewSelfWithContext(ctx, 0)
	var g grant
	if err == nil {
		g, err = granted(secret)
	}
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	if err != nil {
		k.renewFailed(newFailure(err, c.secrets()), now)
		return
	}
	if failures, lasted := k.renewals.end(now); failures > 0 {
		c.logger.Info("Vault renews the token again", "failures", failures, "after", lasted.Round(time.Second))
	}
	pending := k.loginAt
	k.current.ttl, k.current.renewable = g.ttl, g.renewable
	k.plan(now)
	if k.loginAt.IsZero() {
		k.loginAt = pending // A login that is retried goes on: its credentials are newer than this token.
	}
	c.logger.Debug("renewed the Vault token", "ttl", g.ttl)
	if g.ttl > 0 && g.ttl < k.current.full/2 {
		k.limit(now)
	}
}

// limit is called when a renewal gave less than half of what it gave at first:
// the token comes to its maximum TTL.
func (k *keeper) limit(now time.Time) {
	if k.client.cfg.Auth.Method == TokenMethod {
		k.warnLimit("its maximum TTL is near")
		return
	}
	k.logInAt(now)
}

func (k *keeper) warnLimit(why string) {
	if k.nearLimit {
		return
	}
	k.nearLimit = true
	remedy := "write a new one into token_file before"
	if k.client.cfg.Auth.TokenFile == "" {
		remedy = `a token of the environment or of the configuration stays as it is while the process runs: name its file with token_file, or log in with auth "jwt" or "approle"`
	}
	k.client.logger.Warn("the given Vault token will end", "reason", why, "until", k.until.Truncate(time.Second), "remedy", remedy)
}

func (k *keeper) renewFailed(f *failure, now time.Time) {
	c := k.client
	loud := k.renewals.fail(now)
	err := advise(fmt.Sprintf("renew Vault token at %s", c.cfg.Address), f, "")
	c.report(func(s *TokenStatus) { s.Failures, s.Err = k.renewals.failures, err })
	k.renewAt = time.Time{}
	again := f.permanent() || due(k.until, now)
	if again {
		k.logInAt(now)
	} else {
		k.renewAt = now.Add(backoff(k.renewals.failures, c.random()))
		if k.renewAt.After(k.until) {
			k.renewAt = k.until
		}
	}
	log := c.logger.Debug
	if loud {
		log = c.logger.Warn
	}
	log("cannot renew the Vault token", "error", err, "failures", k.renewals.failures, "login", again, "until", k.until.Truncate(time.Second))
}

// logInAt plans a login, unless one that failed is being retried with its own
// delay.
func (k *keeper) logInAt(at time.Time) {
	if k.logins.failures > 0 {
		return
	}
	if k.loginAt.IsZero() || at.Before(k.loginAt) {
		k.loginAt = at
	}
}

// refused is called when Vault answered a token with 403.
func (k *keeper) refused(r refusal, now time.Time) {
	current, _, _ := k.client.session()
	seen, least := &k.denied, refusedGap
	if r.gone {
		seen, least = &k.gone, goneGap
	}
	if r.generation != current || r.generation == *seen {
		return
	}
	*seen = r.generation
	if now.Sub(k.loggedIn) < 2*k.gap {
		k.gap = min(2*k.gap, maxRefusedGap)
	} else {
		k.gap = least
	}
	at := now
	if earliest := k.loggedIn.Add(k.gap); earliest.After(now) {
		at = earliest
	}
	k.logInAt(at)
}

// poll logs in at once when a credential file has new content. A file that
// cannot be read changes nothing: the token in hand is still good.
func (k *keeper) poll(now time.Time) {
	creds, err := k.client.cfg.Auth.read()
	if err != nil {
		if k.files.fail(now) {
			k.client.logger.Warn("cannot read credentials for Vault; the token in hand is kept", "error", err)
		}
		return
	}
	k.files = streak{}
	if creds != k.seen {
		k.loginAt = now
	}
}
