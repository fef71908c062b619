// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A tenure is the state of Leaf.Run and belongs to that goroutine.
type tenure struct {
	leaf *Leaf

	bundle     *connect.TrustBundle // observed last
	generation uint64               // of the Vault token; 0: none yet

	held    *connect.Leaf // published last; nil before
	signed  *signed       // what Vault gave for it
	signing string        // the bundle's SigningID when it was requested

	at      time.Time // the next request; zero: none planned
	asked   time.Time // the last request
	refused uint64    // the token that got a 403 in the last request; 0: none
	streak  streak
}

// ready reports whether a request can be made at all.
func (t *tenure) ready() bool { return t.bundle != nil && t.generation != 0 }

// next is when the next request may be made.
func (t *tenure) next() time.Time {
	if earliest := t.asked.Add(leafGap); !t.asked.IsZero() && earliest.After(t.at) {
		return earliest
	}
	return t.at
}

// observe takes in what has changed outside.
func (t *tenure) observe(bundle *connect.TrustBundle, generation uint64, now time.Time) {
	t.generation = generation
	if t.refused != 0 && t.refused != generation {
		t.refused, t.at = 0, now // There is another token: try it.
	}
	if bundle == nil || bundle == t.bundle {
		return
	}
	t.bundle = bundle
	if t.held == nil || t.streak.failures > 0 {
		t.at = now
	}
	if t.held != nil {
		t.adapt(now)
	}
	t.leaf.report(func(s *LeafStatus) { s.NextAttempt = t.next() })
}

// adapt brings the held leaf in line with a new bundle. Intermediates alone are
// a matter of the presented chain; another signing certificate asks for a new
// leaf, soon but not at the same instant in the whole mesh.
func (t *tenure) adapt(now time.Time) {
	l := t.leaf
	composed, err := l.pki.compose(t.signed, t.held.Key, t.bundle)
	if err == nil {
		err = composed.Check(t.bundle, l.want(t.bundle), now)
	}
	if err != nil {
		l.logger.Warn("the leaf does not hold against the new CA roots; a new one is requested", "error", err)
		t.at = now
		return
	}
	if !slices.EqualFunc(composed.Chain, t.held.Chain, (*x509.Certificate).Equal) {
		t.held = composed
		l.publish(composed)
		l.logger.Info("the presented chain follows the new CA roots", "certificates", len(composed.Chain))
	}
	if id := t.bundle.SigningID(); id != "" && id != t.signing {
		at := now.Add(part(rotationSpread, l.client.random()))
		if at.Before(t.at) {
			t.at = at
		}
		l.logger.Info("the CA of the mesh signs with another certificate; the leaf is renewed", "at", t.at)
	}
}

// request makes one attempt at a new leaf.
func (t *tenure) request(ctx context.Context) {
	l := t.leaf
	t.asked, t.refused = time.Now(), 0
	bundle, generation := t.bundle, t.generation
	next, s, f, err := l.issue(ctx, bundle)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	if err != nil {
		if f != nil && f.status == http.StatusForbidden {
			t.refused = generation
			l.client.refuse(refusal{generation: generation, gone: f.tokenGone()})
		}
		t.failed(err, now)
		return
	}
	failures, lasted := t.streak.end(now)
	t.held, t.signed, t.signing = next, s, bundle.SigningID()
	t.at = schedule(next.NotBefore(), next.NotAfter(), now, l.client.random())
	l.report(func(status *LeafStatus) {
		*status = LeafStatus{NextAttempt: t.next(), NotAfter: next.NotAfter()}
	})
	l.publish(next)
	if failures > 0 {
		l.logger.Info("Vault signs leaves again", "failures", failures, "after", lasted.Round(time.Second))
	}
	l.logger.Info("new leaf", "identity", next.Identity.String(), "issuer", next.Issuer, "not_after", next.NotAfter(), "renewal", t.at)
}

// issue gets one leaf and checks it. The failure is set when Vault said no.
func (l *Leaf) issue(ctx context.Context, bundle *connect.TrustBundle) (*connect.Leaf, *signed, *failure, error) {
	want := l.want(bundle)
	key, csr, err := newCSR(want)
	if err != nil {
		return nil, nil, nil, err
	}
	s, f, err := l.client.sign(ctx, l.pki, want, csr)
	if err != nil {
		return nil, nil, f, err
	}
	leaf, err := l.pki.compose(s, key, bundle)
	if err != nil {
		return nil, nil, nil, errCheck(l.pki, err)
	}
	if err := leaf.Check(bundle, want, time.Now()); err != nil {
		return nil, nil, nil, errCheck(l.pki, err)
	}
	return leaf, s, nil, nil
}

func (t *tenure) failed(err error, now time.Time) {
	l := t.leaf
	loud := t.streak.fail(now)
	delay := backoff(t.streak.failures, l.client.random())
	t.at = now.Add(delay)
	l.report(func(s *LeafStatus) {
		s.LastError, s.Failures, s.Since, s.NextAttempt = err, t.streak.failures, t.streak.since, t.next()
	})
	args := []any{"error", err, "failures", t.streak.failures, "retry", t.next().Sub(now).Round(time.Millisecond)}
	switch {
	case t.held != nil && !now.Before(t.held.NotAfter()):
		l.logger.Error("the leaf has expired and cannot be renewed: peers refuse this service", append(args, "not_after", t.held.NotAfter())...)
	case loud && t.held != nil:
		l.logger.Warn("cannot renew the leaf; the present one stays in use", append(args, "not_after", t.held.NotAfter())...)
	case loud:
		l.logger.Warn("cannot get a leaf: the service is not in the mesh yet", args...)
	default:
		l.logger.Debug("cannot get a leaf", args...)
	}
}

// sleep waits until something may be due and reports false when ctx has ended.
func (t *tenure) sleep(ctx context.Context, changed <-chan struct{}) bool {
	var expired <-chan time.Time
	if t.ready() && !t.at.IsZero() {
		timer := time.NewTimer(time.Until(t.next()))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-expired:
	case <-t.leaf.wake:
	case <-changed:
	}
	return true
}
