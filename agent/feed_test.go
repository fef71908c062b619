// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Two listeners of one destination share a watch; the one that is added later
// must not wait for the next change of what the first has long had.
func TestFeedGivesTheLastValueToWhoJoinsLater(t *testing.T) {
	var got []string
	set := func(id, v string) { got = append(got, id+"="+v) }
	all := feeds(nil, map[string][]string{"key": {"a"}}, set)
	sinks(all)["key"]("1")
	all = feeds(all, map[string][]string{"key": {"a", "b"}, "other": {"c"}}, set)
	sinks(all)["key"]("2")
	all = feeds(all, map[string][]string{"other": {"c"}}, set)
	all = feeds(all, map[string][]string{"key": {"a"}}, set) // watched anew, and delivered by the watch
	sinks(all)["key"]("3")
	if diff := cmp.Diff([]string{"a=1", "b=1", "a=2", "b=2", "a=3"}, got); diff != "" {
		t.Error(diff)
	}
}

// A service that comes back while its former self still drains must go on
// hearing of changes after that one has ended.
func TestServiceThatReturnsDuringItsDrainKeepsItsWatches(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web", "api")
	r.waitReady(t)
	with := r.config
	without := *with
	without.Services = with.Services[1:]
	pin, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", with.Services[0].Connect.SidecarService.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pin.Close() }()
	until(t, "the connection is counted", func() error {
		if n := r.status(t).Sidecars[1].Proxy.Inbound.Active; n != 1 {
			return fmt.Errorf("%d connections", n)
		}
		return nil
	})
	if err := r.Reload(t.Context(), &without); err != nil {
		t.Fatal(err)
	}
	if code, body, err := r.ask("/ready"); err != nil || code != http.StatusOK {
		t.Errorf("while a removed service drains: %d %s %v", code, body, err)
	}
	r.mu.Lock()
	old := r.sidecars["web-sidecar-proxy"].now.Load()
	r.mu.Unlock()
	again := *with
	if err := r.Reload(t.Context(), &again); err != nil {
		t.Fatal(err)
	}
	until(t, "the former self has ended", func() error {
		if old.now.Load() != nil {
			return fmt.Errorf("it still runs")
		}
		return nil
	})
	r.waitReady(t)
	if err := w.mini.SetIntention("api", "web", "deny"); err != nil {
		t.Fatal(err)
	}
	until(t, "the new intention is in force", func() error {
		if n := len(r.status(t).Sidecars[1].Intentions); n != 1 {
			return fmt.Errorf("%d intentions", n)
		}
		return nil
	})
}

// The leaf of the old name would be refused by everybody who calls the new one.
func TestRenamedServiceGetsALeafOfItsNewName(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web")
	r.waitReady(t)
	cfg := *r.config
	cfg.Services = slices.Clone(cfg.Services)
	cfg.Services[0].Name = "shop"
	if err := r.Reload(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	until(t, "the leaf has the new name", func() error {
		s := r.status(t).Sidecars[0]
		if s.Leaf == nil || !strings.HasSuffix(s.Leaf.Identity, "/svc/shop") || !s.Ready {
			return fmt.Errorf("ready %t, leaf %+v", s.Ready, s.Leaf)
		}
		return nil
	})
}
