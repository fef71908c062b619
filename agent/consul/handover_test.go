// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAPausedRegistrarWritesNothingAndAResumedOneEverything(t *testing.T) {
	c, client := newCatalog(t)
	r := client.NewRegistrar([]Definition{definition("web", 80), definition("api", 90)}, nil)
	if err := r.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Pause()
	r.Set([]Definition{definition("web", 81), definition("api", 90)})
	if err := r.reconcile(t.Context()); err != nil || len(c.written()) != 2 {
		t.Fatalf("%v, %v", c.written(), err)
	}
	if err := client.NewRegistrar([]Definition{definition("stray", 70)}, nil).reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Resume([]string{"stray", "web"})
	for range 2 {
		if err := r.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// api is as it was, but may have a token that ends with the other process.
	want := []string{"register web replace=true", "register api replace=true", "register stray replace=true", "deregister/stray", "register web replace=true", "register api replace=true"}
	if diff := cmp.Diff(want, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestARegistrarThatLeavesDeregistersWhatNobodyTookOver(t *testing.T) {
	c, client := newCatalog(t)
	r := client.NewRegistrar([]Definition{definition("web", 80), definition("api", 90)}, nil)
	if err := r.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Leave(t.Context(), func(id string) bool { return id == "web" }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"register web replace=true", "register api replace=true", "deregister/api"}, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	c.refuse = true
	wantError(t, r.Leave(t.Context(), func(string) bool { return false }), `"web"`, "service:write")
}

// TestTheTokenOfALoginIsLoggedOutWhenAnotherProcessHasRegistered is about tokens
// that a registration holds: they stay for the health of the service, until
// another process has put its own in their place.
func TestTheTokenOfALoginIsLoggedOutWhenAnotherProcessHasRegistered(t *testing.T) {
	for left, want := range map[bool]int{false: 1, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, time.Hour)
			d.start(t)
			synctest.Wait()
			d.seat.hold("web", true)
			if left {
				r := (&Client{seat: d.seat}).NewRegistrar([]Definition{definition("web", 80)}, nil)
				if err := r.Leave(t.Context(), func(string) bool { return true }); err != nil {
					t.Fatal(err)
				}
			}
			d.stop()
			if got := len(d.alive()); got != want {
				t.Errorf("left %t: %d tokens are alive", left, got)
			}
		})
	}
}
