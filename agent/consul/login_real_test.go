// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

const realManagement = "aaaaaaaa-0000-0000-0000-000000000001"

// A real is a Consul with ACLs that deny by default, and an auth method for JWTs
// that the test signs: claim svc names the service identity.
type real struct {
	*realserver.Consul
	key *ecdsa.PrivateKey
	api *api.Client // of the operator
}

func newReal(t *testing.T) *real {
	t.Helper()
	server := realserver.StartConsul(t, realserver.Token(realManagement), realserver.HCL(fmt.Sprintf(`acl {
		enabled        = true
		default_policy = "deny"
		tokens {
			initial_management = %[1]q
			agent              = %[1]q
		}
	}`, realManagement)))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	operator, err := api.NewClient(&api.Config{Address: server.Addr, Token: realManagement})
	if err != nil {
		t.Fatal(err)
	}
	method := &api.ACLAuthMethod{Name: "wi", Type: "jwt", MaxTokenTTL: time.Minute, Config: map[string]any{
		"JWTValidationPubKeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))},
		"JWTSupportedAlgs":     []string{"ES256"}, "BoundAudiences": []string{"consul.io"}, "ClaimMappings": map[string]string{"svc": "svc"},
	}}
	if _, _, err := operator.ACL().AuthMethodCreate(method, nil); err != nil {
		t.Fatal(err)
	}
	rule := &api.ACLBindingRule{AuthMethod: "wi", BindType: "service", BindName: "${value.svc}", Selector: `value.svc != "nobody"`}
	if _, _, err := operator.ACL().BindingRuleCreate(rule, nil); err != nil {
		t.Fatal(err)
	}
	return &real{Consul: server, key: key, api: operator}
}

// jwt signs a token as RFC 7515 and RFC 7518 §3.4 describe it.
func (r *real) jwt(t *testing.T, service, audience string) string {
	t.Helper()
	part := func(v map[string]any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	now := time.Now()
	text := part(map[string]any{"alg": "ES256", "typ": "JWT"}) + "." + part(map[string]any{
		"aud": audience, "sub": "job", "svc": service, "iat": now.Unix() - 5, "nbf": now.Unix() - 5, "exp": now.Add(time.Hour).Unix(),
	})
	hash := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, r.key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	a.FillBytes(signature[:32])
	b.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// client logs in with a JWT until the test ends.
func (r *real) client(t *testing.T, method, jwt string) *Client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "jwt")
	put(t, file, jwt)
	c, err := NewClient(Config{Address: r.Addr, Login: &Login{AuthMethod: method, TokenFile: file}}, hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Debug}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	background(t, c.Run)
	return c
}

// tokens lists those that logins made.
func (r *real) tokens(t *testing.T) []*api.ACLTokenListEntry {
	t.Helper()
	all, _, err := r.api.ACL().TokenListFiltered(api.ACLTokenFilterOptions{AuthMethod: "wi"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var theIntentions = request{
	doing: "read intentions", path: "/v1/connect/intentions/match",
	params: url.Values{"by": {"destination"}, "name": {"web"}}, needs: "intentions:read", wait: 5 * time.Second,
}

func TestRealConsulLetsBlockedQueriesOutliveTheirTokenAndRefusesTheNext(t *testing.T) {
	r := newReal(t)
	c := r.client(t, "wi", r.jwt(t, "web", "consul.io"))
	var out any
	m, err := c.get(t.Context(), theIntentions, watch.Cursor{}, &out)
	if err != nil {
		t.Fatal(err)
	}
	all := r.tokens(t)
	if len(all) != 1 || all[0].ExpirationTime == nil || all[0].Description != `token created via login: {"client":"outrider"}` {
		t.Fatalf("tokens of the login: %+v", all)
	}
	answered := make(chan error, 1)
	began := time.Now()
	go func() {
		var out any
		_, err := c.get(t.Context(), theIntentions, watch.Cursor{Index: m.index}, &out)
		answered <- err
	}()
	// Past the time in which a new token may not be known everywhere; the query
	// above blocks by then.
	pastSettling(t)
	if _, err := r.api.ACL().TokenDelete(all[0].AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil || time.Since(began) < theIntentions.wait {
		t.Errorf("the blocked query answered %v after %s, want it to wait to its end", err, time.Since(began))
	}
	sooner := c.seat.changed()
	_, err = c.get(t.Context(), theIntentions, watch.Cursor{}, &out)
	wantError(t, err, "403", "ACL not found", "the token was deleted, has expired")
	select {
	case <-sooner:
	case <-time.After(10 * time.Second):
		t.Fatal("there was no other login")
	}
	if _, err := c.get(t.Context(), theIntentions, watch.Cursor{}, &out); err != nil {
		t.Errorf("after the other login: %v", err)
	}
}

// pastSettling waits for real time to pass: the server has its own clock.
func pastSettling(t *testing.T) {
	t.Helper()
	select {
	case <-time.After(settle + 100*time.Millisecond):
	case <-t.Context().Done():
	}
}

func TestRealConsulRefusesALoginAndWeSayWhatToDo(t *testing.T) {
	r := newReal(t)
	for _, tt := range []struct {
		name, method, jwt string
		wants             []string
	}{
		{"method", "none", r.jwt(t, "web", "consul.io"), []string{"403", `create auth method "none"`}},
		{"rule", "wi", r.jwt(t, "nobody", "consul.io"), []string{"403", `give auth method "wi" a binding rule`}},
		{"audience", "wi", r.jwt(t, "web", "vault.io"), []string{"500", "aud", "check the JWT in"}},
		{"no JWT", "wi", "nonsense", []string{"500", "check the JWT in"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.client(t, tt.method, tt.jwt)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.get(ctx, theIntentions, watch.Cursor{}, new(any))
			wantError(t, err, append(tt.wants, "there is no ACL token yet")...)
			if got := status(err); got != 0 {
				t.Errorf("status %d of the login is taken for that of the request", got)
			}
		})
	}
	if n := len(r.tokens(t)); n != 0 {
		t.Errorf("%d tokens were made", n)
	}
}

func TestRealConsulHasNoTokenLeftWhenRunHasEnded(t *testing.T) {
	r := newReal(t)
	t.Run("a process", func(t *testing.T) {
		c := r.client(t, "wi", r.jwt(t, "web", "consul.io"))
		if _, err := c.get(t.Context(), theIntentions, watch.Cursor{}, new(any)); err != nil || len(r.tokens(t)) != 1 {
			t.Errorf("%v, %d tokens", err, len(r.tokens(t)))
		}
	})
	if n := len(r.tokens(t)); n != 0 {
		t.Errorf("%d tokens are left", n)
	}
}
