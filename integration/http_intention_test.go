// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

func intentionsDecideByPathAndMethod(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-intentions","Name":"shop","Sources":[{"Name":"web-shop","Permissions":[
		{"Action":"deny","HTTP":{"PathPrefix":"/admin","Header":[{"Name":"x-root","Present":true,"Invert":true}]}},
		{"Action":"allow","HTTP":{"PathExact":"/orders","Methods":["GET","POST"]}},
		{"Action":"allow","HTTP":{"PathPrefix":"/admin","Methods":["PUT"]}},
		{"Action":"allow","HTTP":{"PathRegex":"/item/[0-9]+"}}]}]}`)
	var served atomic.Int64
	app := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) })
	_, c := pair(t, consul, "shop", service{}, service{app: serve(t, app)})
	for _, test := range []struct {
		method, path string
		root         bool
		want         int
	}{
		{"GET", "/orders", false, 200},
		{"GET", "/orders?page=2", false, 200},
		{"POST", "/orders", false, 200},
		{"DELETE", "/orders", false, 403},
		{"GET", "/orders/", false, 403},
		{"GET", "/Orders", false, 403},
		{"GET", "/x/../orders", false, 200},
		{"PUT", "/admin", false, 403},
		{"PUT", "/admin", true, 200},
		{"PUT", "/orders/../admin", false, 403},
		{"PUT", "/%61dmin", false, 403},
		{"GET", "/admin", true, 403},
		{"GET", "/item/17", false, 200},
		{"GET", "/item/17/x", false, 403},
		{"GET", "/", false, 403},
	} {
		var fields []string
		if test.root {
			fields = []string{"X-Root", "yes"}
		}
		before := served.Load()
		got, err := c.send(t.Context(), test.method, test.path, "", fields...)
		if err != nil || got.status != test.want {
			t.Errorf("%s %s: status %d, want %d: %v", test.method, test.path, got.status, test.want, err)
		}
		if reached := served.Load() > before; reached != (test.want == 200) {
			t.Errorf("%s %s: that it reached the application is %t", test.method, test.path, reached)
		}
		if test.want == 403 && (got.text != "RBAC: access denied" || got.refused() != "intention_denied") {
			t.Errorf("%s %s: body %q, reason %q", test.method, test.path, got.text, got.refused())
		}
	}
}

// An issuer makes tokens and the keys to verify them.
type issuer struct {
	signer jose.Signer
	keys   string // a JSON Web Key Set
}

func newIssuer(t *testing.T, id string) issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(jose.RS256), Use: "sig"}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jwk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	return issuer{signer, string(keys)}
}

// bearer is a header with a token for audience shop that is good until the
// given time from now.
func (i issuer) bearer(t *testing.T, from, role string, left time.Duration) string {
	t.Helper()
	token, err := jwt.Signed(i.signer).Claims(map[string]any{
		"iss": from, "aud": "shop", "role": role, "exp": time.Now().Add(left).Unix(),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + token
}

func inlineKeysDecide(t *testing.T, consul *realserver.Consul) {
	i := newIssuer(t, "one")
	keys := base64.StdEncoding.EncodeToString([]byte(i.keys))
	tokensDecide(t, consul, "inline", i, `{"Local":{"JWKS":"`+keys+`"}}`)
}

func remoteKeysDecide(t *testing.T, consul *realserver.Consul) {
	i := newIssuer(t, "one")
	keys := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keys.json" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(i.keys))
	}))
	tokensDecide(t, consul, "remote", i, `{"Remote":{"URI":"http://`+keys.String()+`/keys.json","RequestTimeoutMs":5000,"FetchAsynchronously":true}}`)
}

// tokensDecide has a service that only administrators may call.
func tokensDecide(t *testing.T, consul *realserver.Consul, name string, i issuer, keys string) {
	entry(t, consul, `{"Kind":"jwt-provider","Name":"idp-%s","Issuer":"https://idp.test","Audiences":["shop"],"JSONWebKeySet":%s,
		"Forwarding":{"HeaderName":"x-claims"}}`, name, keys)
	entry(t, consul, `{"Kind":"service-intentions","Name":%q,"Sources":[{"Name":"web-%s","Permissions":[
		{"Action":"allow","HTTP":{"PathPrefix":"/admin"},"JWT":{"Providers":[{"Name":"idp-%s","VerifyClaims":[{"Path":["role"],"Value":"admin"}]}]}},
		{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`, name, name, name)
	_, c := pair(t, consul, name, service{}, service{app: httpApp(t, "app")})
	good := i.bearer(t, "https://idp.test", "admin", time.Hour)
	seen := c.eventually(t, http.StatusOK, "/admin", "Authorization", good)
	if got := seen.Header.Get("Authorization"); got != "" {
		t.Errorf("the token was passed on: %q", got)
	}
	claims, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(seen.Header.Get("X-Claims"), "="))
	if err != nil || !strings.Contains(string(claims), `"role":"admin"`) {
		t.Errorf("x-claims is %q, %s: %v", seen.Header.Get("X-Claims"), claims, err)
	}
	for what, fields := range map[string][]string{
		"no token":                  nil,
		"no token, and the header":  {"X-Claims", seen.Header.Get("X-Claims")},
		"another key, of that name": {"Authorization", newIssuer(t, "one").bearer(t, "https://idp.test", "admin", time.Hour)},
		"an unknown key":            {"Authorization", newIssuer(t, "two").bearer(t, "https://idp.test", "admin", time.Hour)},
		"another issuer":            {"Authorization", i.bearer(t, "https://other.test", "admin", time.Hour)},
		"another role":              {"Authorization", i.bearer(t, "https://idp.test", "guest", time.Hour)},
		"expired":                   {"Authorization", i.bearer(t, "https://idp.test", "admin", -time.Hour)},
		"cut short":                 {"Authorization", good[:len(good)-4]},
	} {
		t.Run(what, func(t *testing.T) {
			if got := c.want(t, http.StatusForbidden, "/admin", fields...); got.text != "RBAC: access denied" {
				t.Errorf("body %q", got.text)
			}
			if got := c.want(t, http.StatusOK, "/free", fields...); got.Header.Get("X-Claims") != "" {
				t.Errorf("the application was told claims that nobody has proved: %q", got.Header.Get("X-Claims"))
			}
		})
	}
	c.want(t, http.StatusOK, "/admin", "Authorization", good)
}
