// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// A snapshot must be plain data, so that nobody can keep a handle in it that
// somebody else must close, and so that reading it needs no lock.
func TestSnapshotIsPlainData(t *testing.T) {
	if err := plainData(reflect.TypeFor[connect.Snapshot](), nil); err != nil {
		t.Error(err)
	}
	type bad struct{ M map[string][]func() }
	if plainData(reflect.TypeFor[bad](), nil) == nil {
		t.Error("the check does not see a func in a map of slices")
	}
}

func plainData(typ reflect.Type, path []string) error {
	path = append(path, typ.String())
	switch typ.Kind() {
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return fmt.Errorf("%s holds a %s", strings.Join(path, " → "), typ.Kind())
	case reflect.Interface:
		if typ.String() == "crypto.Signer" {
			return nil // a private key: any kind, never written to
		}
		return fmt.Errorf("%s is an interface", strings.Join(path, " → "))
	}
	if typ.PkgPath() != "" && !strings.Contains(typ.PkgPath(), "outrider/connect") {
		if strings.HasPrefix(typ.PkgPath(), "sync") || strings.HasPrefix(typ.PkgPath(), "context") {
			return fmt.Errorf("%s", strings.Join(path, " → "))
		}
		return nil
	}
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return plainData(typ.Elem(), path)
	case reflect.Map:
		if err := plainData(typ.Key(), path); err != nil {
			return err
		}
		return plainData(typ.Elem(), path)
	case reflect.Struct:
		for field := range typ.Fields() {
			if err := plainData(field.Type, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestIntentionsAreSortedAndDuplicatesOfASourceDropped(t *testing.T) {
	rule := func(src, dst string, precedence int) connect.Intention {
		return connect.Intention{Source: connect.Source{Partition: "default", Namespace: "default", Name: src}, Destination: dst, Precedence: precedence}
	}
	got := connect.SortIntentions([]connect.Intention{
		rule("*", "*", 5), rule("web", "*", 6), rule("*", "api", 8), rule("web", "api", 9), rule("shop", "api", 9),
	})
	var names []string
	for _, i := range got {
		names = append(names, i.String())
	}
	if want := "shop → api, web → api, * → api"; strings.Join(names, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(names, ", "), want)
	}
}

func TestUnknownActionsDeny(t *testing.T) {
	for _, s := range []string{"", "Allow", "permit"} {
		if a, err := connect.ParseAction(s); err == nil || a != connect.Deny {
			t.Errorf("%q is %v, %v", s, a, err)
		}
	}
	if connect.Action(7).String() != "deny" {
		t.Error("an action that does not exist does not read as deny")
	}
}

func TestEmptyRootListIsNoBundle(t *testing.T) {
	if _, err := connect.NewTrustBundle(meshca.TrustDomain, nil); !errors.Is(err, connect.ErrNoRoots) {
		t.Error(err)
	}
	if _, err := connect.NewTrustBundle(meshca.TrustDomain, []connect.Root{{ID: "x"}}); !errors.Is(err, connect.ErrNoRoots) {
		t.Error(err)
	}
	leaf := meshca.New("root").Leaf("web", nil)
	if _, err := connect.NewTrustBundle(meshca.TrustDomain, []connect.Root{{ID: "x", Certificates: leaf.Chain}}); err == nil {
		t.Error("a leaf is trusted as a root")
	}
	if _, err := connect.NewTrustBundle("", meshca.Bundle(meshca.New("root")).Roots); err == nil {
		t.Error("a bundle without a trust domain")
	}
}

func TestSigningIDFollowsTheActiveRoot(t *testing.T) {
	a, b := meshca.New("a"), meshca.New("b")
	if meshca.Bundle(a).SigningID() == meshca.Bundle(a, b).SigningID() {
		t.Error("a new active root changes nothing")
	}
	none := meshca.Bundle(a)
	none.Roots[0].Active = false
	if none.SigningID() != "" || none.Active() != nil {
		t.Error("no root is active")
	}
}

func TestPresentedChainHasNoRootAndNoDuplicate(t *testing.T) {
	old, next := meshca.New("old"), meshca.New("new")
	inter, cross := next.Intermediate("intermediate"), old.CrossSign(next)
	leaf := inter.Leaf("web", nil).Chain[0]
	active := &connect.Root{Intermediates: []*x509.Certificate{cross, inter.Cert}}
	got := connect.PresentedChain(leaf, []*x509.Certificate{inter.Cert, next.Cert}, active)
	want := []*x509.Certificate{leaf, inter.Cert, cross}
	if len(got) != len(want) {
		t.Fatalf("%d certificates, want %d", len(got), len(want))
	}
	for i := range want {
		if !got[i].Equal(want[i]) {
			t.Errorf("certificate %d is %q", i, got[i].Subject)
		}
	}
	if got := connect.PresentedChain(leaf, nil, nil); len(got) != 1 {
		t.Errorf("%d certificates without an active root", len(got))
	}
}

func TestLeafIsCheckedAgainstTheRootsBeforeUse(t *testing.T) {
	ca, stranger := meshca.New("consul root"), meshca.New("vault root")
	now := time.Now()
	for _, tc := range []struct {
		name string
		leaf *connect.Leaf
		want []string
	}{
		{"good", ca.Leaf("web", nil), nil},
		{"another root: both issuers are named", stranger.Leaf("web", nil), []string{"vault root", "consul root"}},
		{"another service", ca.Leaf("api", nil), []string{"svc/api", "svc/web"}},
		{"expired", ca.Leaf("web", nil, meshca.Expired), []string{"expired"}},
		{"a CA", ca.Leaf("web", nil, meshca.IsCA), []string{"CA"}},
		{"not for clients", ca.Leaf("web", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), []string{"usage"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.leaf.Check(meshca.Bundle(ca), meshca.ID("web"), now)
			if (err == nil) != (tc.want == nil) {
				t.Fatal(err)
			}
			for _, text := range tc.want {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not name %q", err, text)
				}
			}
		})
	}
}

func TestLeafNeedsItsOwnKeyAndOneURI(t *testing.T) {
	ca := meshca.New("root")
	a, b := ca.Leaf("web", nil), ca.Leaf("web", nil)
	if _, err := connect.NewLeaf(a.Chain, b.Key, "x"); err == nil || !strings.Contains(err.Error(), "not for our key") {
		t.Error(err)
	}
	two := ca.Leaf("web", nil, meshca.URIs(meshca.ID("web").String(), meshca.ID("api").String()))
	if _, err := connect.NewLeaf(two.Chain, two.Key, "x"); err == nil || !strings.Contains(err.Error(), "2 URI SANs") {
		t.Error(err)
	}
	got, err := connect.NewLeaf(a.Chain, a.Key, "x")
	if err != nil || got.Identity != meshca.ID("web") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPEMBundles(t *testing.T) {
	a, b := meshca.New("a"), meshca.New("b")
	key := "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n"
	for _, tc := range []struct {
		name, bundle, err string
		n                 int
	}{
		{"two with text between", "# a\n" + meshca.PEM(a.Cert) + "\n# b\n" + meshca.PEM(b.Cert), "", 2},
		{"empty", "", "no certificate", 0},
		{"a private key", meshca.PEM(a.Cert) + key, "EC PRIVATE KEY", 0},
		{"too many", strings.Repeat(meshca.PEM(a.Cert), 65), "more than 64", 0},
		{"garbage in a block", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "certificate 1", 0},
	} {
		got, err := connect.ParseCertificates([]byte(tc.bundle))
		if len(got) != tc.n || (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: %d certificates, %v", tc.name, len(got), err)
		}
	}
}

// Building paths through a pile of certificates is work, and anybody may ask
// for it by presenting one.
func TestLongChainIsRefusedUnread(t *testing.T) {
	ca := meshca.New("root")
	chain := ca.Leaf("web", nil).Chain
	for len(chain) < 16 {
		chain = append(chain, meshca.New("other").Leaf("web", nil).Chain[0])
	}
	bundle := meshca.Bundle(ca)
	if _, err := bundle.Verify(chain, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Errorf("16 certificates: %v", err)
	}
	_, err := bundle.Verify(append(chain, chain[1]), x509.ExtKeyUsageClientAuth, time.Now())
	if peer, ok := errors.AsType[*connect.PeerError](err); !ok || peer.Reason != connect.TLSFailed {
		t.Errorf("17 certificates: %v", err)
	}
}
