// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/outrider-mesh/outrider/internal/fakevault"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func response(t testing.TB, data map[string]any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestResponsesToACSRAreReadStrictly(t *testing.T) {
	root := meshca.New("root")
	ca := root.Intermediate("intermediate")
	key, _, err := newCSR(web)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := fakevault.SignWith(ca, root, key.Public(), web.String(), time.Hour)
	leaf, issuer := meshca.PEM(cert), meshca.PEM(ca.Cert)
	many := make([]string, maxChain+1)
	for i := range many {
		many[i] = issuer
	}
	for name, c := range map[string]struct {
		data map[string]any
		want int    // certificates of the chain
		err  string // "" when it is good
	}{
		"chain":           {map[string]any{"certificate": leaf, "ca_chain": []string{issuer}, "issuing_ca": "ignored"}, 1, ""},
		"issuing CA only": {map[string]any{"certificate": leaf, "issuing_ca": issuer}, 1, ""},
		"nothing else":    {map[string]any{"certificate": leaf}, 0, ""},
		"no data":         {nil, 0, "certificate: PEM bundle holds no certificate"},
		"no certificate":  {map[string]any{"ca_chain": []string{issuer}}, 0, "certificate: PEM bundle holds no certificate"},
		"two":             {map[string]any{"certificate": leaf + leaf}, 0, "2 certificates, want one"},
		"wrong type":      {map[string]any{"certificate": 7}, 0, "certificate:"},
		"chain of junk":   {map[string]any{"certificate": leaf, "ca_chain": []string{"junk"}}, 0, "ca_chain:"},
		"chain of maps":   {map[string]any{"certificate": leaf, "ca_chain": []any{map[string]any{}}}, 0, "ca_chain:"},
		"endless chain":   {map[string]any{"certificate": leaf, "ca_chain": many}, 0, "more than 16"},
	} {
		secret, err := api.ParseSecret(strings.NewReader(response(t, c.data)))
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseSigned(secret)
		switch {
		case c.err == "" && (err != nil || len(s.issued) != c.want || !s.leaf.Equal(cert)):
			t.Errorf("%s: %+v, %v", name, s, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error is %v, want %q", name, err, c.err)
		}
	}
	if _, err := parseSigned(nil); err == nil {
		t.Error("a response without a body was accepted")
	}
}

func FuzzSignResponse(f *testing.F) {
	root := meshca.New("root")
	leaf := root.Leaf("web", nil)
	f.Add([]byte(response(f, map[string]any{"certificate": meshca.PEM(leaf.Chain...), "ca_chain": []string{meshca.PEM(root.Cert)}})))
	f.Add([]byte(response(f, map[string]any{"certificate": meshca.PEM(leaf.Chain...), "issuing_ca": meshca.PEM(root.Cert)})))
	f.Add([]byte(`{"data":{"certificate":1,"ca_chain":[null]}}`))
	f.Add([]byte(`{"errors":["x"]}`))
	bundle := meshca.Bundle(root)
	f.Fuzz(func(t *testing.T, body []byte) {
		secret, err := api.ParseSecret(strings.NewReader(string(body)))
		if err != nil {
			return
		}
		s, err := parseSigned(secret)
		if err != nil {
			return
		}
		if s.leaf == nil || len(s.issued) > maxChain {
			t.Fatalf("accepted without a leaf or with %d issuers", len(s.issued))
		}
		composed, err := testPKI.compose(s, leaf.Key, bundle)
		if err == nil && !composed.Chain[0].Equal(leaf.Chain[0]) {
			t.Fatal("a leaf for another key was accepted")
		}
	})
}
