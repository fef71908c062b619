// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// An issuer signs workload identities as Nomad does: its public keys are served
// as a JSON Web Key Set (RFC 7517), which Vault fetches.
type issuer struct {
	url string
	rsa *rsa.PrivateKey
	ed  ed25519.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	var public ed25519.PublicKey
	if public, i.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(map[string]any{"keys": []map[string]any{
		{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "r", "n": b64(i.rsa.N.Bytes()), "e": b64(big.NewInt(int64(i.rsa.E)).Bytes())},
		{"kty": "OKP", "use": "sig", "alg": "EdDSA", "kid": "e", "crv": "Ed25519", "x": b64(public)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) }))
	t.Cleanup(server.Close)
	i.url = server.URL + "/.well-known/jwks.json"
	return i
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// write signs (RFC 7515; RFC 7518 §3.3, RFC 8037 §3.1) and replaces the file as
// Nomad does: whole.
func (i *issuer) write(t *testing.T, file, alg, job string, life time.Duration) {
	t.Helper()
	part := func(v map[string]any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b64(raw)
	}
	now := time.Now()
	text := part(map[string]any{"alg": alg, "typ": "JWT", "kid": strings.ToLower(alg[:1])}) + "." + part(map[string]any{
		"aud": "vault.io", "sub": "global:default:" + job, "nomad_job_id": job, "jti": now.Format(time.RFC3339Nano),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(life).Unix(),
	})
	var signature []byte
	if alg == "RS256" {
		hash := sha256.Sum256([]byte(text))
		var err error
		if signature, err = rsa.SignPKCS1v15(rand.Reader, i.rsa, crypto.SHA256, hash[:]); err != nil {
			t.Fatal(err)
		}
	} else {
		signature = ed25519.Sign(i.ed, []byte(text))
	}
	replace(t, file, text+"."+b64(signature))
}

func replace(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// trust mounts a JWT auth method with the keys of an issuer and a role for job
// web, whose tokens live as short as a test needs.
func (l *lab) trust(t *testing.T, i *issuer, ttl, most string) {
	t.Helper()
	l.call(t, http.MethodPost, "sys/auth/jwt-nomad", map[string]any{"type": "jwt"})
	l.call(t, http.MethodPost, "auth/jwt-nomad/config", map[string]any{"jwks_url": i.url, "jwt_supported_algs": []string{"RS256", "EdDSA"}})
	l.call(t, http.MethodPost, "auth/jwt-nomad/role/mesh-web", map[string]any{
		"role_type": "jwt", "bound_audiences": []string{"vault.io"}, "user_claim": "sub", "bound_claims": map[string]any{"nomad_job_id": "web"},
		"token_policies": []string{"mesh-web"}, "token_no_default_policy": true, "token_ttl": ttl, "token_max_ttl": most,
	})
	// Leaves of seconds, so that each of them needs a token that is good.
	l.server.Command(t, "patch", "mesh-pki/roles/mesh-web", "not_before_duration=1s", "ttl=3s")
}

// A running is a client with one leaf that is renewed every two seconds.
type running struct {
	leaves chan *connect.Leaf
	mu     sync.Mutex
	log    strings.Builder
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *running) count(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), part)
}

func (l *lab) start(t *testing.T, auth vault.Auth) *running {
	t.Helper()
	return l.startWith(t, vault.Config{Address: l.addr, Auth: auth})
}

func (l *lab) startWith(t *testing.T, cfg vault.Config) *running {
	t.Helper()
	r := &running{leaves: make(chan *connect.Leaf, 100)}
	client, err := vault.NewClient(cfg, hclog.New(&hclog.LoggerOptions{Output: r, Level: hclog.Debug}))
	if err != nil {
		t.Fatal(err)
	}
	want := func(*connect.TrustBundle) connect.Identity { return meshca.ID("web") }
	leaf := client.NewLeaf(vault.PKI{Mount: "mesh-pki", Role: "mesh-web", TTL: 3 * time.Second}, want, func(got *connect.Leaf) { r.leaves <- got }, hclog.NewNullLogger())
	leaf.SetBundle(l.bundle)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for _, run := range []func(context.Context) error{client.Run, leaf.Run} {
		go func() { ended <- run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("Run ended with %v", err)
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.Failed() {
			t.Logf("log:\n%s", r.log.String())
		}
	})
	return r
}

// next waits for one more leaf.
func (r *running) next(t *testing.T, within time.Duration) *connect.Leaf {
	t.Helper()
	select {
	case leaf := <-r.leaves:
		return leaf
	case <-time.After(within):
		t.Fatalf("no leaf within %s", within)
		return nil
	}
}

func TestRealVaultTakesWorkloadIdentitiesOfServedKeysAndRefusesOtherJobs(t *testing.T) {
	l, i := newLab(t), newIssuer(t)
	l.trust(t, i, "1h", "2h")
	file := filepath.Join(t.TempDir(), "nomad_vault.jwt")
	auth := vault.Auth{Method: vault.JWTMethod, Mount: "jwt-nomad", Role: "mesh-web", JWTFile: file}
	for _, alg := range []string{"RS256", "EdDSA"} {
		i.write(t, file, alg, "web", time.Hour)
		if leaf, err := l.issue(t, auth, "web"); err != nil || leaf.Identity != meshca.ID("web") {
			t.Errorf("%s: %v, %v", alg, leaf, err)
		}
		i.write(t, file, alg, "another-job", time.Hour)
		wantError(t, l, auth, "web", `check role "mesh-web" of auth/jwt-nomad`)
	}
}

func TestRealVaultLeavesOutliveTokensOfSecondsAndTheirJWTs(t *testing.T) {
	l, i := newLab(t), newIssuer(t)
	l.trust(t, i, "3s", "6s")
	file := filepath.Join(t.TempDir(), "nomad_vault.jwt")
	auth := vault.Auth{Method: vault.JWTMethod, Mount: "jwt-nomad", Role: "mesh-web", JWTFile: file}
	i.write(t, file, "RS256", "web", 10*time.Second)
	r := l.start(t, auth)
	before := r.next(t, time.Minute)
	for range 8 {
		i.write(t, file, "RS256", "web", 10*time.Second)
		leaf := r.next(t, 20*time.Second)
		if late := time.Since(before.NotAfter()); late > 0 {
			t.Errorf("there was no valid leaf for %s", late)
		}
		before = leaf
	}
	if n := r.count("logged in to Vault"); n < 3 {
		t.Errorf("%d logins, want several: the test was too short to tell", n)
	}
	if n := r.count("cannot"); n != 0 {
		t.Errorf("%d failures", n)
	}
}

func TestRealVaultTokenThatIsRevokedIsReplacedWithinSeconds(t *testing.T) {
	l, i := newLab(t), newIssuer(t)
	l.trust(t, i, "1h", "2h")
	file := filepath.Join(t.TempDir(), "nomad_vault.jwt")
	i.write(t, file, "EdDSA", "web", time.Hour)
	r := l.start(t, vault.Auth{Method: vault.JWTMethod, Mount: "jwt-nomad", Role: "mesh-web", JWTFile: file})
	r.next(t, time.Minute)
	l.call(t, http.MethodPut, "sys/leases/revoke-prefix/auth/jwt-nomad/login", map[string]any{"sync": true})
	for r.count("logged in to Vault") < 2 {
		select {
		case <-r.leaves: // one that was signed before
		case <-time.After(20 * time.Second):
			t.Fatal("no other login and no leaf within 20 s")
		}
	}
	r.next(t, 10*time.Second)
}

func TestRealVaultTokenFileThatIsRewrittenIsTakenUpWithinSeconds(t *testing.T) {
	l, i := newLab(t), newIssuer(t)
	l.trust(t, i, "1h", "2h")
	dir := t.TempDir()
	file := filepath.Join(dir, "vault_token")
	l.tokenFile(t, file)
	r := l.start(t, vault.Auth{Method: vault.TokenMethod, TokenFile: file})
	r.next(t, time.Minute)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l.tokenFile(t, file)
	deadline := time.After(10 * time.Second)
	for r.count("logged in to Vault") < 2 {
		select {
		case <-r.leaves:
		case <-deadline:
			t.Fatal("the other token was not taken up within 10 s")
		}
	}
	l.call(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": string(first)})
	r.next(t, 10*time.Second)
	r.next(t, 10*time.Second)
	if n := r.count("cannot"); n != 0 {
		t.Errorf("%d failures", n)
	}
}

// tokenFile writes a token with the policy of the service, as Nomad does for a
// task with a vault block.
func (l *lab) tokenFile(t *testing.T, file string) {
	t.Helper()
	out := l.server.Command(t, "token", "create", "-format=json", "-policy=mesh-web", "-no-default-policy", "-ttl=1h")
	var made struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		}
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.Auth.ClientToken == "" {
		t.Fatalf("%v: %s", err, out)
	}
	replace(t, file, made.Auth.ClientToken)
}
