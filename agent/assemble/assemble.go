// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package assemble turns what the sources hear, piece by piece, into complete
// snapshots. It owns the only mutable draft of a sidecar's state, and talks to
// no API and to no proxy.
package assemble

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
)

// Times of an assembler that is told nothing else.
const (
	// DefaultSettle is how long the draft must be quiet before it is published,
	// so that news that arrive together are published together.
	DefaultSettle = 20 * time.Millisecond
	// DefaultLatest bounds the wait for quiet: an intention must be enforced
	// within a second of its change, whatever else goes on.
	DefaultLatest = 200 * time.Millisecond
	// DefaultPatience is how long an upstream stays out of the snapshot while
	// its chain or endpoints are not known; then it is published as it is, and
	// says that it is not ready. The first snapshot waits as long for the keys
	// of JWT providers and for the service's defaults.
	DefaultPatience = 5 * time.Second
)

// Options of an assembler. Publish and Want are called from Run, one at a time,
// and must not call the assembler back from another goroutine that they wait for.
type Options struct {
	Settle, Latest, Patience time.Duration // zero means the default

	// Publish receives each snapshot. It must not modify it.
	Publish func(*connect.Snapshot)
	// Want receives what the draft needs to be watched. It may call setters.
	Want func(Wants)
	Log  hclog.Logger
}

// Wants are what a draft needs to be watched.
type Wants struct {
	Upstreams []connect.Upstream // for their chains
	Targets   []connect.Target   // of all chains, for their instances
	Gateways  []string           // datacenters whose mesh gateways some target is called through
	Peers     []string           // that targets and intentions name, for their roots
	// Used says of which upstreams, and UsedTargets of whose targets, news must
	// come at once: those with a listener, and implicit ones that have been called.
	Used        map[connect.UpstreamID]bool
	UsedTargets map[connect.TargetID]bool
}

// An Assembler collects the state of one sidecar. The setters take immutable
// values, may be called from any goroutine, and never block on Publish.
type Assembler struct {
	opts Options
	news chan struct{} // one slot: there is something to look at

	mu    sync.Mutex
	draft draft
}

// New returns an assembler with an empty draft.
func New(opts Options) *Assembler {
	opts.Settle = orDefault(opts.Settle, DefaultSettle)
	opts.Latest = orDefault(opts.Latest, DefaultLatest)
	opts.Patience = orDefault(opts.Patience, DefaultPatience)
	return &Assembler{opts: opts, news: make(chan struct{}, 1), draft: newDraft()}
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// Run publishes until ctx ends: the first snapshot when service, trust bundle,
// leaf, mesh entry and intentions are all known, then one for every change that
// has settled. Of a service that speaks HTTP, the first also waits, but not for
// longer than Patience, for the JWT providers that its intentions name and for
// its defaults.
func (a *Assembler) Run(ctx context.Context) error {
	var version uint64
	impatient := time.NewTimer(a.opts.Patience)
	defer impatient.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-impatient.C:
		case <-a.news:
			a.tellWants()
			if !a.settle(ctx) {
				return nil
			}
		}
		snapshot, next := a.take(version+1, time.Now())
		if next > 0 {
			impatient.Reset(next)
		}
		if snapshot != nil {
			version++
			a.opts.Publish(snapshot)
		}
	}
}

// settle waits until no news has come for a while; false when ctx has ended.
func (a *Assembler) settle(ctx context.Context) bool {
	latest := time.NewTimer(a.opts.Latest)
	defer latest.Stop()
	quiet := time.NewTimer(a.opts.Settle)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-latest.C:
			return true
		case <-quiet.C:
			return true
		case <-a.news:
			a.tellWants()
			quiet.Reset(a.opts.Settle)
		}
	}
}

// tellWants passes on what must be watched, outside the lock: Want may set
// values that are known already.
func (a *Assembler) tellWants() {
	a.mu.Lock()
	wants, changed := a.draft.wants()
	a.mu.Unlock()
	if changed && a.opts.Want != nil {
		a.opts.Want(wants)
	}
}

// take returns a snapshot when there is a complete one that has not been
// published, and how long to wait for the next part that it runs out of
// patience with, 0 for none.
func (a *Assembler) take(version uint64, now time.Time) (*connect.Snapshot, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.draft.age(now, a.opts.Patience)
	if !a.draft.dirty || len(a.draft.missing()) > 0 {
		return nil, next
	}
	a.draft.dirty, a.draft.published = false, true
	return a.draft.snapshot(version), next
}

// Missing says in words what must still be heard before the first snapshot;
// empty once one can be made.
func (a *Assembler) Missing() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draft.missing()
}

func (a *Assembler) set(change func(*draft)) {
	a.mu.Lock()
	change(&a.draft)
	a.draft.dirty = true
	a.mu.Unlock()
	select {
	case a.news <- struct{}{}:
	default: // Run has not looked yet; it will see this change too
	}
}

// SetRegistration sets the local service and its upstreams, as the sidecar's
// own registration has them.
func (a *Assembler) SetRegistration(s connect.Service, upstreams []connect.Upstream) {
	now := time.Now()
	a.set(func(d *draft) { d.register(s, upstreams, now) })
}

// SetBundle sets the trust bundle.
func (a *Assembler) SetBundle(b *connect.TrustBundle) { a.set(func(d *draft) { d.bundle = b }) }

// SetLeaf sets the leaf.
func (a *Assembler) SetLeaf(l *connect.Leaf) { a.set(func(d *draft) { d.leaf = l }) }

// SetMesh sets the limits of the mesh config entry.
func (a *Assembler) SetMesh(m connect.Mesh) { a.set(func(d *draft) { d.mesh = &m }) }

// SetIntentions sets the intentions, in the order of evaluation, and the
// default policy.
func (a *Assembler) SetIntentions(rules []connect.Intention, fallback connect.Action) {
	next := &intentions{rules, fallback, Providers(rules), peersOf(rules)}
	a.set(func(d *draft) {
		d.rewant = d.rewant || d.intentions == nil || !slices.Equal(d.intentions.peers, next.peers)
		d.intentions = next
	})
}

// SetJWTProviders sets all that is known of JWT providers, by name. Those that
// no intention names are left out of snapshots; one that is missing denies.
func (a *Assembler) SetJWTProviders(providers map[string]connect.JWTProvider) {
	a.set(func(d *draft) { d.providers = providers })
}

// SetDefaults sets what the service's own defaults ask of its sidecar. It is
// part of snapshots while the service speaks HTTP.
func (a *Assembler) SetDefaults(limits connect.RateLimits, faults []connect.Fault) {
	a.set(func(d *draft) { d.defaults = &defaults{limits, faults} })
}

// SetExposed sets paths that are exposed beside those of the registration.
func (a *Assembler) SetExposed(paths []connect.ExposedPath) {
	a.set(func(d *draft) { d.exposed = paths })
}

// SetChain sets the discovery chain of an upstream; of one that is not
// registered (any more) it is ignored.
func (a *Assembler) SetChain(id connect.UpstreamID, c *connect.Chain) {
	a.set(func(d *draft) { d.setChain(id, c) })
}

// SetInstances sets the instances of a target; of one that no chain names they
// are ignored.
func (a *Assembler) SetInstances(id connect.TargetID, i connect.Instances) {
	a.set(func(d *draft) { d.setInstances(id, i) })
}

// SetGateways sets the mesh gateways of a datacenter; of one that no target
// needs they are ignored.
func (a *Assembler) SetGateways(datacenter string, gateways []connect.Endpoint) {
	a.set(func(d *draft) { d.setGateways(datacenter, gateways) })
}

// SetPeer sets what is known of a cluster peer; one that nothing names is
// ignored.
func (a *Assembler) SetPeer(name string, p connect.Peer) {
	a.set(func(d *draft) { d.setPeer(name, p) })
}
