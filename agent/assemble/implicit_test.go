// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func implicitly(ids ...connect.UpstreamID) []connect.Upstream {
	out := make([]connect.Upstream, 0, len(ids))
	for _, id := range ids {
		out = append(out, connect.Upstream{ID: id, Implicit: true})
	}
	return out
}

func upstreamIDs(s *connect.Snapshot) []connect.UpstreamID {
	var out []connect.UpstreamID
	for _, u := range s.Upstreams {
		out = append(out, u.ID)
	}
	return out
}

func transparently() connect.Service {
	return connect.Service{Name: "web", Transparent: &connect.Transparent{}}
}

func TestFirstSnapshotWaitsForWhatIntentionsAllowButNotForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.SetRegistration(transparently(), nil)
		r.SetBundle(&connect.TrustBundle{})
		r.SetLeaf(&connect.Leaf{})
		r.SetMesh(connect.Mesh{})
		r.SetIntentions(nil, connect.Deny)
		after(DefaultPatience / 2)
		if diff := cmp.Diff([]string{"the upstreams that intentions allow"}, r.Missing()); diff != "" || len(r.published()) != 0 {
			t.Errorf("%d snapshots: %s", len(r.published()), diff)
		}
		r.SetImplicit(implicitly("api", "db"), nil)
		r.SetChain("api", chain("a"))
		r.SetInstances("a", instance("1"))
		after(time.Second)
		if diff := cmp.Diff([]string{"1 upstreams that intentions allow"}, r.Missing()); diff != "" || len(r.published()) != 0 {
			t.Errorf("%d snapshots: %s", len(r.published()), diff)
		}
		after(DefaultPatience)
		if len(r.published()) == 0 {
			t.Fatal("no snapshot for want of one upstream")
		}
		r.cancel()
	})
}

func TestImplicitUpstreamsComeAndGoWithoutDisturbingOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		r.SetRegistration(transparently(), []connect.Upstream{{ID: "db", BindPort: 9000}})
		behind := []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:443")}
		r.SetImplicit(implicitly("api", "db"), behind)
		for id, target := range map[connect.UpstreamID]connect.TargetID{"api": "a", "db": "d"} {
			r.SetChain(id, chain(target))
			r.SetInstances(target, instance("1"))
		}
		after(time.Second)
		first := r.last()
		if diff := cmp.Diff([]connect.UpstreamID{"api", "db"}, upstreamIDs(first)); diff != "" || first.Upstreams[1].BindPort != 9000 || len(first.Destinations) != 1 {
			t.Errorf("%+v: %s", first.Upstreams, diff)
		}
		r.SetImplicit(implicitly(), behind)
		after(time.Second)
		if s := r.last(); len(s.Upstreams) != 1 || s.Chains["db"] != first.Chains["db"] || len(s.Chains) != 1 || len(s.Endpoints) != 1 {
			t.Errorf("%+v", s)
		}
		r.SetImplicit(implicitly("api"), behind)
		r.SetChain("api", chain("a"))
		r.SetInstances("a", instance("1"))
		after(time.Second)
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "db", BindPort: 9000}})
		after(time.Second)
		if s := r.last(); len(s.Upstreams) != 1 || s.Destinations != nil {
			t.Errorf("out of transparent mode: %+v", s)
		}
		r.cancel()
	})
}

func TestNewsOfUsedUpstreamsComeAtOnceAsFarAsThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		var wants []Wants
		r.opts.Want = func(w Wants) { wants = append(wants, w) }
		r.core()
		var ids []connect.UpstreamID
		for i := range maxUsed + 10 {
			ids = append(ids, connect.UpstreamID(fmt.Sprintf("s%02d", i)))
		}
		r.SetRegistration(transparently(), []connect.Upstream{{ID: "db"}})
		r.SetImplicit(implicitly(ids...), nil)
		r.SetChain("db", chain("shared"))
		r.SetChain("s00", chain("shared", "a"))
		after(time.Second)
		w := wants[len(wants)-1]
		if !w.Used["db"] || w.Used["s00"] || !w.UsedTargets["shared"] || w.UsedTargets["a"] {
			t.Errorf("before a call: %v, %v", w.Used, w.UsedTargets)
		}
		r.Use([]connect.UpstreamID{"s00", "stranger"})
		after(time.Second)
		if w = wants[len(wants)-1]; !w.Used["s00"] || !w.UsedTargets["a"] || w.Used["stranger"] {
			t.Errorf("after a call: %v, %v", w.Used, w.UsedTargets)
		}
		r.Use(ids)
		after(time.Second)
		count := 0
		for _, used := range wants[len(wants)-1].Used {
			if used {
				count++
			}
		}
		if count != maxUsed+1 { // and the one with a listener
			t.Errorf("%d count as used", count)
		}
		r.cancel()
	})
}

func TestACallOfOneUpstreamUsesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		var wants []Wants
		r.opts.Want = func(w Wants) { wants = append(wants, w) }
		r.core()
		r.SetRegistration(transparently(), nil)
		r.SetImplicit(implicitly("api", "db"), nil)
		after(time.Second)
		r.Use([]connect.UpstreamID{"api"})
		after(time.Second)
		if w := wants[len(wants)-1]; !w.Used["api"] || w.Used["db"] {
			t.Errorf("after a call of api: %v", w.Used)
		}
		r.cancel()
	})
}

// Each upstream may be late once; then the first snapshot has been, and the others
// do not wait for it again.
func TestAnUpstreamThatIsLateHoldsUpNobodyTwice(t *testing.T) {
	d := draft{
		service:  &connect.Service{Transparent: &connect.Transparent{}},
		implicit: implicitly("api"), late: map[connect.UpstreamID]bool{"api": true},
	}
	if got := d.unheardImplicit(); got != nil {
		t.Errorf("waits for %q", got)
	}
	d.late = nil
	if got := d.unheardImplicit(); len(got) != 1 {
		t.Errorf("waits for %q, want one upstream", got)
	}
}

func TestImplicitUpstreamsOfAServiceOutOfTheModeAreLeftOut(t *testing.T) {
	for _, mode := range []*connect.Transparent{nil, {}} {
		d := draft{service: &connect.Service{Transparent: mode}, registered: []connect.Upstream{{ID: "db"}}, implicit: implicitly("api")}
		want := 1
		if mode != nil {
			want = 2
		}
		if got := d.withImplicit(); len(got) != want {
			t.Errorf("mode %+v: %+v", mode, got)
		}
	}
}
