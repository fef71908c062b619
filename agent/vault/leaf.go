// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
)

// A Leaf keeps the leaf of one local service: it has the first one signed,
// renews it in time and when the roots of the mesh change, and publishes each.
type Leaf struct {
	client  *Client
	pki     PKI
	want    func(*connect.TrustBundle) connect.Identity
	publish func(*connect.Leaf)
	logger  hclog.Logger

	wake chan struct{} // a new bundle is there

	mu     sync.Mutex
	bundle *connect.TrustBundle
	status LeafStatus
}

// A LeafStatus is what can be said about a leaf at one moment.
type LeafStatus struct {
	// LastError says why there is no new leaf: why the last attempt failed, or
	// why there is no Vault token to try with. nil when the last attempt
	// succeeded or none was due.
	LastError error
	Failures  int       // attempts that failed in a row
	Since     time.Time // the first of them; zero when Failures is 0
	// NextAttempt is when the next CSR is sent: a renewal, or a retry after a
	// failure. It is zero before the first bundle.
	NextAttempt time.Time
	NotAfter    time.Time // end of the published leaf; zero before the first
}

// NewLeaf returns the keeper of one service's leaf; Run does the work. want
// tells which identity the service has under a bundle and must be a pure
// function. publish is called from Run with each leaf that holds against the
// bundle; the leaf is immutable, and publish must not block.
func (c *Client) NewLeaf(pki PKI, want func(b *connect.TrustBundle) connect.Identity, publish func(*connect.Leaf), logger hclog.Logger) *Leaf {
	return &Leaf{client: c, pki: pki, want: want, publish: publish, logger: logger, wake: make(chan struct{}, 1)}
}

// SetBundle tells the roots that leaves must chain to. Before the first call
// nothing is requested. nil is ignored: the bundle in force stays.
func (l *Leaf) SetBundle(b *connect.TrustBundle) {
	if b == nil {
		return
	}
	l.mu.Lock()
	l.bundle = b
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Status returns the state of the leaf. It never waits for Vault.
func (l *Leaf) Status() LeafStatus {
	_, _, problem := l.client.session()
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.status
	if status.LastError == nil {
		status.LastError = problem
	}
	return status
}

// Run requests, renews and publishes until ctx ends, and then returns nil. It
// is called once. An error is returned only for a PKI that can never work.
//
// A leaf is replaced only by one that passed [connect.Leaf.Check]. Whatever
// fails, the published leaf stays in use, even past its end: withdrawing it
// would change nothing, because peers refuse an expired certificate by
// themselves, and each failed attempt is then logged as an error.
func (l *Leaf) Run(ctx context.Context) error {
	if err := l.pki.check(); err != nil {
		return fmt.Errorf("leaf from Vault: %w", err)
	}
	t := &tenure{leaf: l}
	for {
		generation, changed, _ := l.client.session()
		t.observe(l.current(), generation, time.Now())
		if t.ready() && due(t.next(), time.Now()) {
			t.request(ctx)
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		if !t.sleep(ctx, changed) {
			return nil
		}
	}
}

func (l *Leaf) current() *connect.TrustBundle {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bundle
}

func (l *Leaf) report(change func(*LeafStatus)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
}

// errCheck adds what to do to the refusal of a leaf that Vault signed.
func errCheck(pki PKI, err error) error {
	var peer *connect.PeerError
	if errors.As(err, &peer) && peer.Reason == connect.TLSFailed {
		return fmt.Errorf("refuse the leaf that Vault signed: %w: the issuer of %q must be signed by a root of Consul's CA, its role must issue for client and server, and the clocks of Vault and this host must agree", err, pki.Mount)
	}
	return fmt.Errorf("refuse the leaf that Vault signed: %w: check role %q of %q", err, pki.Role, pki.Mount)
}
