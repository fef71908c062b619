// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func oldRoot(w *world) connect.Root {
	return connect.Root{ID: "id-root", SigningKeyID: meshca.KeyID(w.ca.Cert), Certificates: []*x509.Certificate{w.root.Cert}}
}

func TestAfterARootRotationTheLeafIsRenewedWithinThirtySecondsAndOldPeersBelieveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.start()
		w.pass(time.Minute)

		root := meshca.New("new root")
		ca := root.Intermediate("new intermediate")
		cross := w.root.CrossSign(root)
		w.vault.SetCA(ca, root)
		both := bundleOf(t, root, ca, oldRoot(w))
		both.Active().Intermediates = []*x509.Certificate{cross, ca.Cert}
		w.leaf.SetBundle(both)
		synctest.Wait()
		changed := time.Now()
		first := w.leaves()[0].leaf
		if err := first.Check(both, web, time.Now()); err != nil {
			t.Fatalf("the first leaf does not hold any more: %v", err)
		}
		w.pass(30 * time.Second)

		leaves := w.leaves()
		last := leaves[len(leaves)-1]
		if last.leaf.Chain[0].Issuer.CommonName != "new intermediate" || last.at.Sub(changed) > 30*time.Second {
			t.Fatalf("leaf of %q after %s, want the new intermediate within 30 s", last.leaf.Chain[0].Issuer, last.at.Sub(changed))
		}
		for name, bundle := range map[string]*connect.TrustBundle{"old": w.bundle, "both": both, "new": bundleOf(t, root, ca)} {
			if err := last.leaf.Check(bundle, web, time.Now()); err != nil {
				t.Errorf("peers with %s roots refuse the leaf: %v", name, err)
			}
		}
		for _, cert := range last.leaf.Chain {
			if cert.Equal(root.Cert) || cert.Equal(w.root.Cert) {
				t.Errorf("the self-signed root %q is presented", cert.Subject)
			}
		}
		if n := len(w.signs(200)); n != 2 {
			t.Errorf("%d CSRs, want one before and one after the rotation", n)
		}
	})
}

func TestALeafThatNoLongerHoldsIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.start()
		w.pass(time.Minute)
		root := meshca.New("new root")
		ca := root.Intermediate("new intermediate")
		w.vault.SetCA(ca, root)
		only := bundleOf(t, root, ca)
		w.leaf.SetBundle(only)
		synctest.Wait()
		leaves := w.leaves()
		if len(leaves) != 2 {
			t.Fatalf("%d leaves, want a second one without delay", len(leaves))
		}
		if err := leaves[1].leaf.Check(only, web, time.Now()); err != nil {
			t.Error(err)
		}
	})
}

func TestALeafSignedBeforeConsulKnowsTheRootIsTriedAgainWithTheNextBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		root := meshca.New("new root")
		ca := root.Intermediate("new intermediate")
		w.vault.SetCA(ca, root)
		w.start()
		w.pass(10 * time.Minute)
		if n := len(w.leaves()); n != 0 {
			t.Fatalf("%d leaves of an unknown root", n)
		}
		w.leaf.SetBundle(bundleOf(t, root, ca))
		w.pass(leafGap)
		if n := len(w.leaves()); n != 1 {
			t.Errorf("%d leaves after the roots came, want 1", n)
		}
	})
}

func TestNewIntermediatesAloneChangeTheChainWithoutACSR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.start()
		cross := meshca.New("older root").CrossSign(w.root)
		next := bundleOf(t, w.root, w.ca)
		next.Active().Intermediates = []*x509.Certificate{cross, w.ca.Cert}
		w.leaf.SetBundle(next)
		synctest.Wait()
		leaves := w.leaves()
		if len(leaves) != 2 || len(w.signs(200)) != 1 {
			t.Fatalf("%d leaves from %d CSRs, want 2 from 1", len(leaves), len(w.signs(200)))
		}
		if leaves[1].leaf.Key != leaves[0].leaf.Key || !leaves[1].leaf.Chain[0].Equal(leaves[0].leaf.Chain[0]) {
			t.Error("the leaf itself has changed")
		}
		if chain := leaves[1].leaf.Chain; len(chain) != 3 || !chain[2].Equal(cross) {
			t.Errorf("the chain has %d certificates, want leaf, intermediate and the cross-signed root", len(chain))
		}
		if len(leaves[0].leaf.Chain) != 2 {
			t.Error("the leaf published before was written to")
		}
		w.leaf.SetBundle(bundleOf(t, w.root, w.ca, connect.Root{ID: "spare"}))
		w.leaf.SetBundle(next)
		w.pass(time.Minute)
		if n := len(w.signs(200)); n != 1 {
			t.Errorf("%d CSRs, want 1: no signing certificate has changed", n)
		}
	})
}

func TestABundleWithoutAnActiveRootAsksForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.start()
		none := bundleOf(t, w.root, w.ca)
		none.Roots[0].Active = false
		w.leaf.SetBundle(none)
		w.pass(time.Minute)
		w.leaf.SetBundle(w.bundle)
		w.pass(time.Minute)
		if n := len(w.signs(200)); n != 1 {
			t.Errorf("%d CSRs, want 1", n)
		}
	})
}
