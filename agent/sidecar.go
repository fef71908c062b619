// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent/assemble"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// sidecar is one proxy with what feeds it.
type sidecar struct {
	agent   *Agent
	ref     Sidecar
	foreign bool // registered by somebody else
	log     hclog.Logger

	leaving atomic.Bool            // a reload has taken it out of the configuration
	proxyID atomic.Pointer[string] // nil until known
	now     atomic.Pointer[session]
}

// session is one run of a sidecar.
type session struct {
	*sidecar
	owner     string // of watches: another one for each session, as two of one sidecar may overlap
	assembler *assemble.Assembler
	proxy     *proxy.Proxy
	snapshots chan *connect.Snapshot // one slot, the latest
	ready     atomic.Bool
	applyErr  atomic.Pointer[error]

	listened  sync.Once
	listening chan struct{} // closed when there is an inbound listener

	once       sync.Once
	registered chan struct{} // closed when service is set
	service    connect.Service
	moved      chan struct{} // one slot: the registration has become another service's

	bundling sync.Mutex // bundles reach the leaf source in order
	leaf     atomic.Pointer[leafSource]
	bundle   *connect.TrustBundle

	// Owned by want.
	chains    map[consul.ChainKey]*feed[connect.UpstreamID, *connect.Chain]
	endpoints map[consul.EndpointsKey]*feed[connect.TargetID, connect.Instances]
	gateways  map[consul.GatewaysKey]*feed[string, []connect.Endpoint]
	peers     map[consul.PeerKey]*feed[string, connect.Peer]

	defaultFrom atomic.Pointer[string]
	appliedAt   atomic.Pointer[time.Time] // the latest snapshot

	http       sync.Mutex // guards what follows, and the watches that depend on it
	speaksHTTP bool
	rules      []connect.Intention

	implicit implicit

	exposesChecks atomic.Bool
	exposing      chan struct{} // one slot: exposesChecks has changed

	// Owned by applySnapshots.
	observers *observers

	// Owned by exposeChecks.
	exposed        []connect.ExposedPath
	exposeWarnings []string
}

func newSidecar(a *Agent, ref Sidecar, foreign bool) *sidecar {
	name := ref.ProxyID
	if name == "" {
		name = ref.ServiceID
	}
	return &sidecar{agent: a, ref: ref, foreign: foreign, log: a.log.Named("sidecar").With("sidecar", name)}
}

func (s *sidecar) id() string {
	if p := s.proxyID.Load(); p != nil {
		return *p
	}
	return ""
}

// run serves until ctx ends or a part faults.
func (s *sidecar) run(ctx context.Context) error {
	id, err := s.find(ctx)
	if err != nil {
		return err
	}
	s.proxyID.Store(&id)
	s.awaitRegistration(ctx)
	s.leaveMaintenance(ctx, id)
	ses := &session{
		sidecar: s, owner: fmt.Sprintf("%s#%d", id, s.agent.sessions.Add(1)),
		proxy:      proxy.New(s.agent.proxyLimits(), s.log),
		snapshots:  make(chan *connect.Snapshot, 1),
		listening:  make(chan struct{}),
		registered: make(chan struct{}),
		moved:      make(chan struct{}, 1),
		exposing:   make(chan struct{}, 1),
	}
	if s.agent.opts.Handover != nil {
		ses.proxy.ListenThrough(s.agent.opts.Handover)
	}
	ses.assembler = assemble.New(assemble.Options{Publish: ses.publish, Want: ses.want, Log: s.log})
	s.now.Store(ses)
	defer s.now.CompareAndSwap(ses, nil)
	defer func() { ses.observers.end() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a panic here must not leave the parts behind
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{ses.proxy.Run, ses.assembler.Run, ses.applySnapshots, ses.keepLeaf, ses.keepIdentity, ses.exposeChecks, ses.noteUse, ses.beSeen} {
		group.Go(func() error { return guard(s.log, func() error { return part(ctx) }) })
	}
	defer ses.unsubscribe()
	ses.subscribe()
	return group.Wait()
}

// find returns the proxy's ID. When it is looked up by its service and is not
// registered yet, that is an error, after which the supervisor tries again.
func (s *sidecar) find(ctx context.Context) (string, error) {
	if s.ref.ProxyID != "" {
		return s.ref.ProxyID, nil
	}
	return s.agent.consul.FindProxy(ctx, s.ref.ServiceID)
}

// awaitRegistration gives our own registration a moment, so that the first look
// at it finds it. It is no more than that: a registration that an earlier process
// left serves as well, while this one's fails.
func (s *sidecar) awaitRegistration(ctx context.Context) {
	const moment = 2 * time.Second
	if s.foreign {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	if err := s.agent.registrar.Wait(ctx, s.ref.ServiceID); err != nil {
		s.log.Debug("going on without", "error", err)
	}
}

// leaveMaintenance ends what a drain that was cut short may have left behind.
// There is nothing to end when the proxy is not registered yet.
func (s *sidecar) leaveMaintenance(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, courtesy)
	defer cancel()
	if err := s.agent.consul.Maintenance(ctx, id, false, ""); err != nil {
		s.log.Debug("did not end maintenance mode", "error", err)
	}
}

// subscribe asks for what every sidecar needs; the rest follows from what the
// registration and the chains say.
func (s *session) subscribe() {
	w := s.agent.watches
	w.Roots.Reconcile(s.owner, map[struct{}]func(*connect.TrustBundle){{}: s.setBundle})
	w.Mesh.Reconcile(s.owner, map[struct{}]func(connect.Mesh){{}: s.assembler.SetMesh})
	s.followRegistration()
}

// followRegistration asks for the registration, the latest at once.
func (s *session) followRegistration() {
	w := s.agent.watches
	w.Registrations.Reconcile(s.owner, nil)
	w.Registrations.Reconcile(s.owner, map[string]func(consul.Registration){s.id(): s.setRegistration})
}

func (s *session) unsubscribe() {
	w := s.agent.watches
	w.Registrations.Reconcile(s.owner, nil)
	w.Intentions.Reconcile(s.owner, nil)
	w.Roots.Reconcile(s.owner, nil)
	w.Mesh.Reconcile(s.owner, nil)
	w.Chains.Reconcile(s.owner, nil)
	w.Endpoints.Reconcile(s.owner, nil)
	w.Gateways.Reconcile(s.owner, nil)
	w.Peers.Reconcile(s.owner, nil)
	w.Implicit.Reconcile(s.owner, nil)
	s.needHTTP(func() { s.speaksHTTP, s.rules = false, nil })
}

func (s *session) setRegistration(r consul.Registration) {
	if s.agent.frozen.Load() {
		return // it is a successor's
	}
	for _, warning := range r.Warnings {
		s.log.Warn(warning)
	}
	s.once.Do(func() {
		s.service = r.Service
		close(s.registered)
	})
	if r.Service.Identity("") != s.service.Identity("") {
		select {
		case s.moved <- struct{}{}:
		default: // said already
		}
		return
	}
	s.assembler.SetRegistration(r.Service, r.Upstreams)
	s.followIntentions(r)
	s.needHTTP(func() { s.speaksHTTP = r.Service.Protocol.Speaks() })
	if s.exposesChecks.Swap(r.ExposeChecks) != r.ExposeChecks {
		select {
		case s.exposing <- struct{}{}:
		default: // it will look anyway
		}
	}
	s.agent.watches.Intentions.Reconcile(s.owner, map[consul.IntentionsKey]func(consul.Intentions){
		consul.ServiceIntentionsKey(r.Service): s.setIntentions,
	})
}

var errMoved = errors.New("the registration now stands for a service of another name, which needs another leaf")

// keepIdentity ends the session when the registration has changed its service:
// leaf, intentions and watches are those of the identity it began with.
func (s *session) keepIdentity(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.moved:
		return errMoved
	}
}

func (s *session) setIntentions(i consul.Intentions) {
	s.log.Debug("intentions", "rules", len(i.Rules), "default", i.Default, "default_from", i.DefaultFrom)
	s.defaultFrom.Store(&i.DefaultFrom)
	s.assembler.SetIntentions(i.Rules, i.Default)
	s.needHTTP(func() { s.rules = i.Rules })
}

func (s *session) setBundle(b *connect.TrustBundle) {
	s.assembler.SetBundle(b)
	s.bundling.Lock()
	defer s.bundling.Unlock()
	s.bundle = b
	if source := s.leaf.Load(); source != nil {
		(*source).SetBundle(b)
	}
}

// publish keeps the latest snapshot for applySnapshots.
func (s *session) publish(next *connect.Snapshot) {
	select {
	case <-s.snapshots: // one that was not looked at yet is out of date now
	default:
	}
	s.snapshots <- next
}

// applySnapshots hands snapshots to the proxy, and tries one again that could
// not be applied in full, for example because a port was taken.
func (s *session) applySnapshots(ctx context.Context) error {
	const first, last = 250 * time.Millisecond, 15 * time.Second
	var current *connect.Snapshot
	backoff := first
	for {
		var again <-chan time.Time
		if err := s.applyErr.Load(); err != nil && *err != nil {
			again = time.After(backoff)
			backoff = min(2*backoff, last)
		}
		select {
		case <-ctx.Done():
			return nil
		case current = <-s.snapshots:
			backoff = first
		case <-again:
		}
		s.apply(ctx, current)
	}
}

func (s *session) apply(ctx context.Context, snapshot *connect.Snapshot) {
	if s.observers == nil {
		s.observe(snapshot)
	}
	s.observers.follow(snapshot)
	err := s.proxy.Apply(ctx, snapshot)
	if ctx.Err() != nil {
		return
	}
	s.applyErr.Store(&err)
	var unbound *proxy.BindError
	switch {
	case err == nil:
		now := time.Now()
		s.appliedAt.Store(&now)
		s.log.Debug("snapshot is in force", "snapshot", snapshot.Version)
	case errors.As(err, &unbound):
		s.log.Error("a listener could not be opened; trying again", "snapshot", snapshot.Version, "error", err)
	default:
		s.log.Error("snapshot refused; the previous one stays in force", "snapshot", snapshot.Version, "error", err)
	}
	if s.proxy.Inbound(ctx) != nil && !s.ready.Swap(true) {
		s.listened.Do(func() { close(s.listening) })
		s.log.Info("ready", "service", snapshot.Service.Name, "identity", snapshot.Leaf.Identity, "inbound", s.proxy.Inbound(ctx), "upstreams", len(snapshot.Upstreams))
	}
}

// drain ends the sidecar's traffic gently.
func (s *sidecar) drain(ctx context.Context) {
	ses := s.now.Load()
	if ses == nil {
		return
	}
	ses.ready.Store(false)
	if cut := ses.proxy.Drain(ctx); cut > 0 {
		s.log.Warn("connections were cut at the end of the drain", "connections", cut)
	}
}
