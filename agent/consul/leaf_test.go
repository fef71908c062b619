// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

const leafPath = "/v1/agent/connect/ca/leaf/web"

var web = connect.Service{Name: "web", Namespace: "default", Partition: "default", Datacenter: "dc1"}

// issues writes a leaf as Consul's agent does.
func issues(t *testing.T, leaf *connect.Leaf) http.HandlerFunc {
	t.Helper()
	key, err := x509.MarshalECPrivateKey(leaf.Key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(wireLeaf{
		CertPEM:       meshca.PEM(leaf.Chain...),
		PrivateKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return says(string(text))
}

// A diary is a log that can be read while it is written.
type diary struct {
	mu   sync.Mutex
	text strings.Builder
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

func (d *diary) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: d, Level: hclog.Debug})
}

func TestTheLeafIsFetchedOnceThereIsABundleAndFollowsBoth(t *testing.T) {
	before, after := meshca.New("before"), meshca.New("after")
	first := before.Leaf("web", nil)
	a := newAgent(t)
	a.answer(leafPath, issues(t, first))
	publish, leaves := into[*connect.Leaf]()
	l := a.client(t, nil).NewLeaf(web, publish, nil)
	background(t, l.Run)
	if n := len(a.requests(leafPath)); n != 0 {
		t.Errorf("%d requests before there was a bundle", n)
	}
	l.SetBundle(nil)
	l.SetBundle(meshca.Bundle(before))
	got := receive(t, leaves)
	if !got.Chain[0].Equal(first.Chain[0]) || len(got.Chain) != 1 || got.Identity != meshca.ID("web") {
		t.Errorf("first leaf %v of %d certificates", got.Identity, len(got.Chain))
	}

	// The new root is there, cross-signed by the old one: the same leaf is
	// presented with it.
	rotated := meshca.Bundle(before, after)
	rotated.Roots[1].Intermediates = []*x509.Certificate{before.CrossSign(after)}
	l.SetBundle(rotated)
	if got := receive(t, leaves); len(got.Chain) != 2 || !got.Chain[0].Equal(first.Chain[0]) {
		t.Errorf("%d certificates after the rotation, want 2", len(got.Chain))
	}

	second := after.Leaf("web", nil)
	a.answer(leafPath, issues(t, second))
	if got := receive(t, leaves); !got.Chain[0].Equal(second.Chain[0]) || got.Key.Public().(*ecdsa.PublicKey).Equal(first.Key.Public()) {
		t.Error("the renewed leaf was not published")
	}
	l.SetBundle(rotated)
	a.answer("/unrelated", says(``))
	eventually(t, "another answer for the leaf", func() bool { return len(a.requests(leafPath)) >= 4 })
	if n := len(leaves); n != 0 {
		t.Errorf("%d leaves too many: nothing changed", n)
	}
	if s := l.Status(); len(s) != 1 || s[0].Key != "leaf of web" || s[0].Err != nil {
		t.Errorf("status %+v", s)
	}
}

func TestALeafThatDoesNotHoldIsNeverPublished(t *testing.T) {
	ca, stranger := meshca.New("ours"), meshca.New("stranger")
	good := ca.Leaf("web", nil)
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		wants  string
	}{
		{"of another CA", issues(t, stranger.Leaf("web", nil)), "does not hold against Consul's roots"},
		{"of another service", issues(t, ca.Leaf("db", nil)), "svc/db"},
		{"expired", issues(t, ca.Leaf("web", nil, meshca.Expired)), "expired"},
		{"a CA", issues(t, ca.Leaf("web", nil, meshca.IsCA)), "is that of a CA"},
		{"for another key", issues(t, &connect.Leaf{Chain: good.Chain, Key: ca.Key}), "not for our key"},
		{"without certificate", says(`{"PrivateKeyPEM":"x"}`), "holds no certificate"},
		{"without key", says(`{"CertPEM":` + quote(t, meshca.PEM(good.Chain...)) + `}`), "there is no PEM block"},
		{"forbidden", fails(403, "Permission denied"), `lacks the ACL permission service:write on`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.answer(leafPath, issues(t, good))
			var log diary
			publish, leaves := into[*connect.Leaf]()
			l := a.client(t, nil).NewLeaf(web, publish, log.logger())
			l.SetBundle(meshca.Bundle(ca))
			background(t, l.Run)
			receive(t, leaves)

			a.answer(leafPath, tt.answer)
			eventually(t, "a log line with "+tt.wants, func() bool { return strings.Contains(log.String(), tt.wants) })
			if len(leaves) != 0 {
				t.Error("it was published")
			}
			if strings.Contains(log.String(), "BEGIN") {
				t.Error("the log shows PEM")
			}
			renewed := ca.Leaf("web", nil)
			a.answer(leafPath, issues(t, renewed))
			if got := receive(t, leaves); !got.Chain[0].Equal(renewed.Chain[0]) {
				t.Error("no recovery")
			}
		})
	}
}

func TestALeafComesIntoUseWhenItsRootArrivesLater(t *testing.T) {
	old, next := meshca.New("old"), meshca.New("next")
	leaf := next.Leaf("web", nil)
	a := newAgent(t)
	a.answer(leafPath, issues(t, leaf))
	var log diary
	publish, leaves := into[*connect.Leaf]()
	l := a.client(t, nil).NewLeaf(web, publish, log.logger())
	l.SetBundle(meshca.Bundle(old))
	background(t, l.Run)
	eventually(t, "the leaf is refused", func() bool { return strings.Contains(log.String(), "the leaf is refused") })
	l.SetBundle(meshca.Bundle(old, next))
	if got := receive(t, leaves); !got.Chain[0].Equal(leaf.Chain[0]) {
		t.Error("another leaf was published")
	}
}

func TestAKeyOnAnOpenNetworkIsWarnedOf(t *testing.T) {
	var log diary
	c, err := NewClient(Config{Address: "http://192.0.2.1:8500"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := c.NewLeaf(web, func(*connect.Leaf) {}, log.logger())
	l.SetBundle(meshca.Bundle(meshca.New("ca")))
	background(t, l.Run)
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "travels unencrypted") })
}

func TestEveryKindOfPrivateKeyIsRead(t *testing.T) {
	ec := meshca.New("x").Key
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for _, tt := range []struct {
		kind string
		der  []byte
		want crypto.PublicKey
	}{
		{"EC PRIVATE KEY", sec1, ec.Public()},
		{"RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(small), small.Public()},
		{"PRIVATE KEY", pkcs8(ec), ec.Public()},
		{"PRIVATE KEY", pkcs8(small), small.Public()},
		{"PRIVATE KEY", pkcs8(ed), ed.Public()},
		{"PRIVATE KEY", []byte("secret"), nil},
		{"ENCRYPTED PRIVATE KEY", []byte("secret"), nil},
	} {
		key, err := parseKey(pem.EncodeToMemory(&pem.Block{Type: tt.kind, Bytes: tt.der}))
		if tt.want == nil {
			wantError(t, err, "")
			continue
		}
		if err != nil || !tt.want.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: %v", tt.kind, err)
		}
	}
}

func quote(t *testing.T, s string) string {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
