// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// run collects what an assembler publishes, inside a synctest bubble.
type run struct {
	*Assembler
	mu        sync.Mutex
	snapshots []*connect.Snapshot
	wants     []string
	cancel    context.CancelFunc
}

func (r *run) published() []*connect.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.snapshots)
}

func (r *run) last() *connect.Snapshot {
	all := r.published()
	return all[len(all)-1]
}

func start(t *testing.T) *run {
	r := &run{}
	r.Assembler = New(Options{
		Publish: func(s *connect.Snapshot) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.snapshots = append(r.snapshots, s)
		},
		Want: func(w Wants) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.wants = append(r.wants, fmt.Sprintf("%d upstreams, %d targets", len(w.Upstreams), len(w.Targets)))
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { _ = r.Run(ctx) }()
	return r
}

func (r *run) core() {
	r.SetRegistration(connect.Service{Name: "web"}, nil)
	r.SetBundle(&connect.TrustBundle{})
	r.SetLeaf(&connect.Leaf{})
	r.SetMesh(connect.Mesh{})
	r.SetIntentions(nil, connect.Deny)
}

func after(d time.Duration) { time.Sleep(d); synctest.Wait() }

func chain(targets ...connect.TargetID) *connect.Chain {
	c := &connect.Chain{Targets: map[connect.TargetID]connect.Target{}}
	for _, id := range targets {
		c.Targets[id] = connect.Target{ID: id}
	}
	return c
}

func instance(id string) connect.Instances {
	return connect.Instances{Endpoints: []connect.Endpoint{{ID: id}}}
}

func TestNothingIsPublishedBeforeEveryPartIsKnown(t *testing.T) {
	setters := []func(*run){
		func(r *run) { r.SetRegistration(connect.Service{Name: "web"}, nil) },
		func(r *run) { r.SetBundle(&connect.TrustBundle{}) },
		func(r *run) { r.SetLeaf(&connect.Leaf{}) },
		func(r *run) { r.SetMesh(connect.Mesh{}) },
		func(r *run) { r.SetIntentions(nil, connect.Deny) },
	}
	for left := range setters {
		synctest.Test(t, func(t *testing.T) {
			r := start(t)
			for i, set := range setters {
				if i != left {
					set(r)
				}
			}
			after(time.Hour)
			if len(r.published()) != 0 || len(r.Missing()) != 1 {
				t.Errorf("without part %d: %d snapshots, missing %v", left, len(r.published()), r.Missing())
			}
			setters[left](r)
			after(time.Second)
			if len(r.published()) != 1 || len(r.Missing()) != 0 {
				t.Errorf("with part %d: %d snapshots, missing %v", left, len(r.published()), r.Missing())
			}
			r.cancel()
		})
	}
}

func TestNewsThatArriveTogetherArePublishedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		after(time.Second)
		for range 5 {
			r.SetIntentions(nil, connect.Allow)
			after(DefaultSettle / 2)
		}
		after(time.Second)
		if len(r.published()) != 2 || r.published()[1].Version != 2 {
			t.Errorf("%d snapshots", len(r.published()))
		}
		after(time.Hour)
		if len(r.published()) != 2 {
			t.Error("published again without news")
		}
		r.cancel()
	})
}

func TestConstantNewsDelaysAChangeByTheBoundOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		after(time.Second)
		began := time.Now()
		r.SetIntentions(nil, connect.Allow)
		for len(r.published()) == 1 {
			after(DefaultSettle / 2)
			r.SetMesh(connect.Mesh{})
		}
		if took := time.Since(began); took > DefaultLatest+DefaultSettle {
			t.Errorf("took %v", took)
		}
		if r.published()[1].DefaultAction != connect.Allow {
			t.Error("the change is not in it")
		}
		r.cancel()
	})
}

func TestUpstreamAppearsOnceItsChainAndEndpointsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "api"}})
		after(time.Second)
		if n := len(r.published()[0].Upstreams); n != 0 {
			t.Fatalf("%d upstreams before their chain is known", n)
		}
		r.SetChain("api", chain("api.dc1", "api.dc2"))
		r.SetInstances("api.dc1", instance("a"))
		after(time.Second)
		if s := r.last(); len(s.Upstreams) != 0 {
			t.Error("published with half its endpoints")
		}
		r.SetInstances("api.dc2", connect.Instances{})
		after(time.Second)
		s := r.last()
		if len(s.Upstreams) != 1 || s.Chains["api"] == nil || len(s.Endpoints["api.dc1"]) != 1 {
			t.Errorf("snapshot %+v", s)
		}
		if want := []string{"1 upstreams, 0 targets", "1 upstreams, 2 targets"}; !slices.Equal(r.wants[len(r.wants)-2:], want) {
			t.Errorf("wants %v", r.wants)
		}
		r.cancel()
	})
}

func TestUpstreamThatStaysIncompleteIsPublishedAsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "api"}, {ID: "query:q", Problem: "not served"}})
		after(DefaultPatience / 2)
		if s := r.last(); len(s.Upstreams) != 1 || s.Upstreams[0].ID != "query:q" {
			t.Errorf("upstreams %v", s.Upstreams)
		}
		after(DefaultPatience)
		s := r.last()
		if len(s.Upstreams) != 2 || s.Chains["api"] != nil {
			t.Errorf("snapshot %+v", s)
		}
		n := len(r.published())
		after(time.Hour)
		if len(r.published()) != n {
			t.Error("published again without news")
		}
		r.cancel()
	})
}

func TestRemovedUpstreamLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "api"}})
		r.SetChain("api", chain("api.dc1"))
		r.SetInstances("api.dc1", connect.Instances{})
		after(time.Second)
		r.SetRegistration(connect.Service{Name: "web"}, nil)
		r.SetChain("api", chain("api.dc1")) // a watch that was still delivering
		r.SetInstances("api.dc1", connect.Instances{})
		after(time.Second)
		s := r.last()
		if len(s.Upstreams)+len(s.Chains)+len(s.Endpoints) != 0 || len(r.draft.since) != 0 {
			t.Errorf("snapshot %+v", s)
		}
		r.cancel()
	})
}

// What the data plane holds must not change under it.
func TestPublishedSnapshotsAreNeverWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "api"}})
		r.SetChain("api", chain("api.dc1"))
		r.SetInstances("api.dc1", instance("old"))
		after(time.Second)
		first := r.last()
		before := fmt.Sprintf("%+v", *first)
		r.SetInstances("api.dc1", instance("new"))
		r.SetChain("api", chain("api.dc2"))
		r.SetInstances("api.dc2", connect.Instances{})
		r.SetIntentions(nil, connect.Allow)
		after(time.Second)
		if now := fmt.Sprintf("%+v", *first); now != before {
			t.Errorf("changed from\n%s\nto\n%s", before, now)
		}
		if len(r.published()) < 2 {
			t.Error("no second snapshot")
		}
		r.cancel()
	})
}

// A config entry that adds a target must not take the upstream away from the
// application until the endpoints of that target are known.
func TestNewChainServesOnceItsEndpointsAreKnownAndTheOldOneUntilThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "api"}})
		old, next := chain("api.dc1"), chain("api.dc2")
		r.SetChain("api", old)
		r.SetInstances("api.dc1", instance("a"))
		after(time.Minute)
		r.SetChain("api", next)
		after(time.Minute)
		if s := r.last(); len(s.Upstreams) != 1 || s.Chains["api"] != old || len(s.Endpoints["api.dc1"]) != 1 {
			t.Errorf("while the new target's endpoints are not known: %+v", s)
		}
		r.SetInstances("api.dc1", connect.Instances{}) // what serves stays up to date
		after(time.Second)
		if s := r.last(); len(s.Endpoints["api.dc1"]) != 0 {
			t.Errorf("endpoints %v", s.Endpoints)
		}
		r.SetInstances("api.dc2", instance("b"))
		after(time.Second)
		if s := r.last(); s.Chains["api"] != next || len(s.Endpoints["api.dc2"]) != 1 || len(s.Endpoints) != 1 {
			t.Errorf("afterwards: %+v", s)
		}
		if got, want := r.wants[len(r.wants)-2:], []string{"1 upstreams, 2 targets", "1 upstreams, 1 targets"}; !slices.Equal(got, want) {
			t.Errorf("wants %v, want %v", got, want)
		}
		r.cancel()
	})
}

// A watch that goes on delivers nothing again.
func TestUpstreamThatLeavesAndReturnsBeforeAnybodyLooksKeepsWhatIsKnown(t *testing.T) {
	d := newDraft()
	service, upstreams := connect.Service{Name: "web"}, []connect.Upstream{{ID: "api"}}
	d.register(service, upstreams, time.Now())
	d.setChain("api", chain("api.dc1"))
	d.setInstances("api.dc1", connect.Instances{})
	d.wants()
	d.register(service, nil, time.Now())
	d.register(service, upstreams, time.Now())
	d.setChain("api", chain("api.dc2"))
	d.setChain("api", chain("api.dc1"))
	if !d.complete(upstreams[0]) || len(d.instances) != 1 {
		t.Error("the draft forgot what its watches will not deliver again")
	}
}
