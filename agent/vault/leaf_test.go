// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/fakevault"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// newLeafWorld is a world whose logins always work.
func newLeafWorld(t *testing.T) *world {
	w := newWorld(t, appRole)
	w.vault.AllowAppRole(roleID, secretID, fakevault.Lease{TTL: 24 * time.Hour, Renewable: true})
	return w
}

func TestNothingIsRequestedBeforeTheFirstBundleAndEachLeafHasItsOwnKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.run(w.client.Run)
		w.run(w.leaf.Run)
		w.leaf.SetBundle(nil)
		w.pass(10 * time.Hour)
		if n := len(w.vault.Requests("connect-intermediate")); n != 0 {
			t.Fatalf("%d CSRs before the first bundle", n)
		}
		w.leaf.SetBundle(w.bundle)
		w.pass(10 * time.Hour)
		leaves := w.leaves()
		if len(leaves) < 10 {
			t.Fatalf("%d leaves in ten hours, want at least 10", len(leaves))
		}
		keys := map[string]bool{}
		for _, p := range leaves {
			if err := p.leaf.Check(w.bundle, web, p.at); err != nil {
				t.Errorf("a published leaf is not good: %v", err)
			}
			if p.leaf.Issuer != "vault connect-intermediate/mesh-web" || len(p.leaf.Chain) != 2 {
				t.Errorf("leaf from %q with %d certificates, want two from the role", p.leaf.Issuer, len(p.leaf.Chain))
			}
			keys[string(p.leaf.Chain[0].RawSubjectPublicKeyInfo)] = true
		}
		if len(keys) != len(leaves) {
			t.Errorf("%d keys for %d leaves", len(keys), len(leaves))
		}
		for _, r := range w.signs(http.StatusOK) {
			if r.Body["ttl"] != "3600s" {
				t.Errorf("asked for ttl %v, want 3600s", r.Body["ttl"])
			}
		}
	})
}

func TestRenewalLiesBetween60And90PercentOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.start()
		w.pass(60 * time.Hour)
		leaves := w.leaves()
		fractions := map[int]int{}
		for i := 1; i < len(leaves); i++ {
			old := leaves[i-1].leaf
			life := old.NotAfter().Sub(old.NotBefore())
			f := float64(leaves[i].at.Sub(old.NotBefore())) / float64(life)
			if f < 0.6 || f > 0.9 {
				t.Errorf("leaf %d was renewed at %.1f %% of its life", i, 100*f)
			}
			fractions[int(f*20)]++
		}
		if len(leaves) < 60 || len(fractions) < 4 {
			t.Errorf("%d renewals in classes %v, want more than 60 spread over the range", len(leaves), fractions)
		}
	})
}

// otherKey signs for a key that is not the one of the CSR.
func otherKey(w *world) fakevault.SignFunc {
	return func(_ *x509.CertificateRequest, ttl time.Duration) (*x509.Certificate, []*x509.Certificate) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return w.vault.Sign(key.Public(), web.String(), ttl)
	}
}

func altered(w *world, options ...meshca.Option) fakevault.SignFunc {
	return func(csr *x509.CertificateRequest, ttl time.Duration) (*x509.Certificate, []*x509.Certificate) {
		return w.vault.Sign(csr.PublicKey, web.String(), ttl, options...)
	}
}

func elsewhere(name string) fakevault.SignFunc {
	return func(csr *x509.CertificateRequest, ttl time.Duration) (*x509.Certificate, []*x509.Certificate) {
		root := meshca.New(name)
		return fakevault.SignWith(root.Intermediate("strange intermediate"), root, csr.PublicKey, web.String(), ttl)
	}
}

func TestALeafThatPeersWouldRefuseIsNotPublishedAndTheOldOneStays(t *testing.T) {
	cases := map[string]struct {
		sign func(*world) fakevault.SignFunc
		want []string
	}{
		"another service": {
			func(w *world) fakevault.SignFunc { return altered(w, meshca.URIs(meshca.ID("api").String())) },
			[]string{"/svc/api", "/svc/web", `check role "mesh-web"`},
		},
		"two identities": {
			func(w *world) fakevault.SignFunc {
				return altered(w, meshca.URIs(web.String(), meshca.ID("api").String()))
			},
			[]string{"2 URI SANs"},
		},
		"expired":     {func(w *world) fakevault.SignFunc { return altered(w, meshca.Expired) }, []string{"expired", "clocks"}},
		"a CA":        {func(w *world) fakevault.SignFunc { return altered(w, meshca.IsCA) }, []string{"that of a CA"}},
		"another key": {otherKey, []string{"not for our key"}},
		"only for servers": {
			func(w *world) fakevault.SignFunc {
				return altered(w, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
			},
			[]string{"usage", "for client and server"},
		},
		"another root": {
			func(*world) fakevault.SignFunc { return elsewhere("a strange root") },
			[]string{"CN=strange intermediate", `"CN=root"`, `issuer of "connect-intermediate" must be signed by a root of Consul's CA`},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLeafWorld(t)
				w.start()
				w.vault.SetRole(rolePath, web.String(), c.sign(w))
				w.pass(2 * time.Hour)
				if n := len(w.leaves()); n != 1 {
					t.Fatalf("%d leaves were published, want the good one alone", n)
				}
				status := w.leaf.Status()
				contains(t, status.LastError.Error(), append(c.want, "refuse the leaf that Vault signed")...)
				if status.Failures < 10 || status.Since.IsZero() || !status.NotAfter.Equal(w.leaves()[0].leaf.NotAfter()) {
					t.Errorf("status is %+v", status)
				}
				w.vault.SetRole(rolePath, web.String(), nil)
				w.pass(2 * time.Minute)
				if n := len(w.leaves()); n != 2 || w.leaf.Status().LastError != nil {
					t.Errorf("%d leaves after the role was mended, status %+v", n, w.leaf.Status())
				}
			})
		})
	}
}

func TestEveryRefusalOfVaultComesWithWhatToDo(t *testing.T) {
	uriError := "URI Subject Alternative Names were provided via the CSR which are not valid for this role"
	cases := map[string]struct {
		status   int
		messages []string
		want     []string
	}{
		"no policy":     {403, []string{"1 error occurred:\n\t* permission denied\n\n"}, []string{"Vault answered 403: 1 error occurred: * permission denied", "grant update on connect-intermediate/sign/mesh-web"}},
		"wrong URI":     {400, []string{uriError}, []string{uriError, `set allowed_uri_sans="` + web.String() + `" on role "mesh-web" of connect-intermediate`}},
		"no role":       {400, []string{"unknown role: mesh-web"}, []string{`create role "mesh-web"`, "require_cn=false"}},
		"common name":   {400, []string{"the common_name field is required"}, []string{"set require_cn=false"}},
		"key type":      {400, []string{"role requires keys of type rsa"}, []string{"set key_type=ec"}},
		"short CA":      {400, []string{"cannot satisfy request, as TTL would result in notAfter that is beyond the expiration of the CA certificate"}, []string{"shorter ttl"}},
		"other 400":     {400, []string{"strange"}, []string{`strange: check role "mesh-web"`}},
		"no mount":      {404, []string{"no handler for route"}, []string{"check that the mount exists"}},
		"sealed":        {503, []string{"Vault is sealed"}, []string{"Vault is sealed", "unseal Vault"}},
		"quota":         {429, []string{"request path rate limit quota exceeded"}, []string{"raise the rate limit"}},
		"broken":        {500, nil, []string{"500: internal server error", "Vault's own log"}},
		"long and wild": {500, []string{strings.Repeat("x\n\x1b[31m", 1000)}, []string{"x [31mx", " …"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLeafWorld(t)
				w.vault.Refuse("connect-intermediate/sign/", c.status, c.messages...)
				w.start()
				w.pass(time.Second)
				err := w.leaf.Status().LastError
				if err == nil {
					t.Fatal("no error in status")
				}
				contains(t, err.Error(), append(c.want, `sign leaf for "web" with Vault role "mesh-web" of connect-intermediate at http://vault.test:8200`)...)
				if len(err.Error()) > 800 || strings.ContainsAny(err.Error(), "\n\x1b") {
					t.Errorf("the error is not one short line: %q", err)
				}
			})
		})
	}
}

func TestAnOutageOfAnHourKeepsTheOldLeafAndEndsWithANewOne(t *testing.T) {
	for name, c := range map[string]struct {
		ttl     time.Duration
		expires bool
	}{"leaf outlives it": {8 * time.Hour, false}, "leaf expires in it": {30 * time.Minute, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newLeafWorld(t)
				w.leaf.pki.TTL = c.ttl
				w.start()
				first := w.leaves()[0].leaf
				w.pass(part(c.ttl, 0.55)) // No renewal is due yet.
				w.vault.SetDown(true)
				w.pass(time.Hour)
				if c.ttl > time.Hour {
					w.pass(part(c.ttl, 0.42) - time.Hour) // Every renewal is due by now.
				}
				if n := len(w.leaves()); n != 1 {
					t.Fatalf("%d leaves, want the first one only", n)
				}
				status := w.leaf.Status()
				contains(t, status.LastError.Error(), "connection refused", "start Vault, or correct vault.address")
				if expired := len(w.log.lines("[ERROR]", "has expired")); (expired > 20) != c.expires {
					t.Errorf("%d errors about an expired leaf", expired)
				}
				if status.Failures < 20 || time.Now().After(first.NotAfter()) != c.expires {
					t.Errorf("status is %+v", status)
				}
				w.vault.SetDown(false)
				w.pass(maxBackoff)
				if n := len(w.leaves()); n != 2 {
					t.Fatalf("%d leaves a minute after the outage, want 2", n)
				}
				if n := len(w.log.lines("[INFO]", "signs leaves again")); n != 1 {
					t.Errorf("the recovery was logged %d times, want once", n)
				}
			})
		})
	}
}

func TestAnOutageLongerThanTheTokenLivesEndsWithANewLoginAndANewLeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, appRole)
		w.vault.AllowAppRole(roleID, secretID, fakevault.Lease{TTL: 20 * time.Minute, Renewable: true})
		w.start()
		w.vault.SetDown(true)
		w.pass(3 * time.Hour)
		w.vault.SetDown(false)
		w.pass(2 * maxBackoff)
		if n := len(w.vault.Requests("auth/approle/login")); n != 2 {
			t.Errorf("%d logins, want one before and one after the outage", n)
		}
		if n := len(w.leaves()); n != 2 {
			t.Errorf("%d leaves, want 2; status %v", n, w.leaf.Status())
		}
		contains(t, strings.Join(w.log.lines("[WARN]", "cannot renew the Vault token"), ""), "connection refused", "login=false")
	})
}

func TestLeavesOfOneProcessShareOneTokenAndFailAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		var others []*Leaf
		for _, service := range []string{"api", "db", "refused"} {
			id := meshca.ID(service)
			if service != "refused" {
				w.vault.SetRole("connect-intermediate/mesh-"+service, id.String(), nil)
			}
			pki := PKI{Mount: "connect-intermediate", Role: "mesh-" + service, TTL: time.Hour}
			leaf := w.client.NewLeaf(pki, func(*connect.TrustBundle) connect.Identity { return id }, w.publish, w.leaf.logger)
			leaf.SetBundle(w.bundle)
			w.run(leaf.Run)
			others = append(others, leaf)
		}
		w.start()
		w.pass(time.Hour)
		count := map[connect.Identity]int{}
		for _, p := range w.leaves() {
			count[p.leaf.Identity]++
		}
		if count[web] < 2 || count[meshca.ID("api")] < 2 || count[meshca.ID("db")] < 2 || len(count) != 3 {
			t.Errorf("leaves are %v, want a first one and a renewal of web, api and db", count)
		}
		if n := len(w.vault.Requests("auth/approle/login")); n != 1 {
			t.Errorf("%d logins, want one for all", n)
		}
		contains(t, others[2].Status().LastError.Error(), `create role "mesh-refused"`)
	})
}

func TestAnEndlessLoadOfShortLeavesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLeafWorld(t)
		w.vault.SetRole(rolePath, web.String(), altered(w, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) }))
		w.start()
		w.pass(time.Minute)
		if n := len(w.leaves()); n < 30 || n > 62 {
			t.Errorf("%d leaves of two seconds in a minute, want one per second", n)
		}
	})
}

func TestAPKIThatCanNeverWorkEndsRunAtOnce(t *testing.T) {
	for _, pki := range []PKI{{}, {Mount: "pki"}, {Mount: "pki", Role: "mesh-../../sys"}, {Mount: "../sys", Role: "r"}, {Mount: "pki", Role: "a?b"}, {Mount: "pki", Role: "r", TTL: -1}} {
		c, err := NewClient(Config{Address: fakevault.Address, Auth: appRole}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.NewLeaf(pki, func(*connect.TrustBundle) connect.Identity { return web }, nil, nil).Run(t.Context()); err == nil {
			t.Errorf("%+v was accepted", pki)
		}
	}
}
