// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

const signPath = "mesh-pki/sign/mesh-web"

// A lab is a real Vault with a root and an intermediate mount, the role and
// policy of one service, and the bundle of its root.
type lab struct {
	server      *realserver.Vault
	addr, token string
	bundle      *connect.TrustBundle
}

// newLab starts Vault; more are arguments of it.
func newLab(t *testing.T, more ...string) *lab {
	t.Helper()
	server := realserver.StartVault(t, more...)
	l := &lab{server: server, addr: server.Addr, token: server.Token}
	for _, mount := range []string{"mesh-root", "mesh-pki"} {
		l.call(t, http.MethodPost, "sys/mounts/"+mount, map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "8760h"}})
	}
	root := l.call(t, http.MethodPost, "mesh-root/root/generate/internal", map[string]any{
		"common_name": "mesh root", "uri_sans": "spiffe://" + meshca.TrustDomain, "key_type": "ec", "key_bits": 256, "ttl": "8760h",
	})
	request := l.call(t, http.MethodPost, "mesh-pki/intermediate/generate/internal", map[string]any{"common_name": "mesh intermediate", "key_type": "ec", "key_bits": 256})
	issuer := l.call(t, http.MethodPost, "mesh-root/root/sign-intermediate", map[string]any{
		"csr": request["csr"], "use_csr_values": true, "format": "pem", "max_path_length": 0, "ttl": "4380h",
	})
	l.call(t, http.MethodPost, "mesh-pki/intermediate/set-signed", map[string]any{"certificate": issuer["certificate"].(string) + "\n" + root["certificate"].(string)})
	l.call(t, http.MethodPost, "mesh-pki/roles/mesh-web", map[string]any{
		"allowed_uri_sans": []string{meshca.ID("web").String()}, "allow_any_name": false, "allow_localhost": false,
		"allow_ip_sans": false, "require_cn": false, "use_csr_common_name": false, "use_csr_sans": true,
		"key_type": "ec", "key_bits": 256, "basic_constraints_valid_for_non_ca": true, "no_store": true,
		"generate_lease": false, "not_before_duration": "60s", "ttl": "1h", "max_ttl": "72h",
	})
	l.call(t, http.MethodPut, "sys/policies/acl/mesh-web", map[string]any{"policy": `
		path "` + signPath + `"        { capabilities = ["update"] }
		path "auth/token/renew-self"  { capabilities = ["update"] }
		path "auth/token/lookup-self" { capabilities = ["read"] }`})
	l.bundle = bundleOf(t, root["certificate"].(string))
	return l
}

func bundleOf(t *testing.T, root string) *connect.TrustBundle {
	t.Helper()
	certs, err := connect.ParseCertificates([]byte(root))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := connect.NewTrustBundle(meshca.TrustDomain, []connect.Root{{ID: "root", Active: true, Certificates: certs}})
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// call asks the HTTP API as the operator and returns the data of the answer.
func (l *lab) call(t *testing.T, method, path string, body map[string]any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, l.addr+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", l.token)
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: status %d: %s, %v", method, path, resp.StatusCode, answer, err)
	}
	var decoded struct {
		Data map[string]any `json:"data"`
	}
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &decoded); err != nil {
			t.Fatal(err)
		}
	}
	return decoded.Data
}

// approle returns an AppRole with the policy of the service.
func (l *lab) approle(t *testing.T) vault.Auth {
	t.Helper()
	l.call(t, http.MethodPost, "sys/auth/approle", map[string]any{"type": "approle"})
	role := "auth/approle/role/mesh-web"
	l.call(t, http.MethodPost, role, map[string]any{
		"token_policies": []string{"mesh-web"}, "token_no_default_policy": true, "token_period": "20m", "secret_id_ttl": "24h",
	})
	id := l.call(t, http.MethodGet, role+"/role-id", nil)
	secret := l.call(t, http.MethodPost, role+"/secret-id", nil)
	file := filepath.Join(t.TempDir(), "secret-id")
	if err := os.WriteFile(file, []byte(secret["secret_id"].(string)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return vault.Auth{Method: vault.AppRoleMethod, RoleID: id["role_id"].(string), SecretIDFile: file}
}

// issue runs a client and one leaf until there is a leaf or an error of Vault.
func (l *lab) issue(t *testing.T, auth vault.Auth, service string) (*connect.Leaf, error) {
	t.Helper()
	return l.issueWith(t, vault.Config{Address: l.addr, Auth: auth}, service)
}

func (l *lab) issueWith(t *testing.T, cfg vault.Config, service string) (*connect.Leaf, error) {
	t.Helper()
	client, err := vault.NewClient(cfg, hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Debug}))
	if err != nil {
		t.Fatal(err)
	}
	leaves := make(chan *connect.Leaf, 1)
	want := func(*connect.TrustBundle) connect.Identity { return meshca.ID(service) }
	leaf := client.NewLeaf(vault.PKI{Mount: "mesh-pki", Role: "mesh-web", TTL: time.Hour}, want, func(l *connect.Leaf) { leaves <- l }, hclog.NewNullLogger())
	leaf.SetBundle(l.bundle)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	ended := make(chan error, 2)
	for _, run := range []func(context.Context) error{client.Run, leaf.Run} {
		go func() { ended <- run(ctx) }()
	}
	defer func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("Run ended with %v", err)
			}
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case got := <-leaves:
			return got, nil
		case <-tick.C:
			if err := leaf.Status().LastError; err != nil {
				return nil, err
			}
		case <-ctx.Done():
			t.Fatal("neither a leaf nor an error within a minute")
		}
	}
}

func TestRealVaultSignsALeafThatTheMeshBelieves(t *testing.T) {
	l := newLab(t)
	leaf, err := l.issue(t, l.approle(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Check(l.bundle, meshca.ID("web"), time.Now()); err != nil {
		t.Error(err)
	}
	cert := leaf.Chain[0]
	if len(leaf.Chain) != 2 || len(cert.Subject.Names) != 0 || len(cert.DNSNames)+len(cert.IPAddresses) != 0 {
		t.Errorf("chain of %d, subject %q, SANs %v %v, want leaf and intermediate and the SPIFFE ID alone", len(leaf.Chain), cert.Subject, cert.DNSNames, cert.IPAddresses)
	}
	if life := cert.NotAfter.Sub(cert.NotBefore); life < 59*time.Minute || life > 62*time.Minute {
		t.Errorf("the leaf lives for %s, want about an hour", life)
	}
}

func TestRealVaultRefusesAnotherServiceAndWeSayWhatToDo(t *testing.T) {
	l := newLab(t)
	auth := l.approle(t)
	wantError(t, l, auth, "api", `set allowed_uri_sans="`+meshca.ID("api").String()+`" on role "mesh-web" of mesh-pki`)

	l.call(t, http.MethodPut, "sys/policies/acl/mesh-web", map[string]any{"policy": `path "auth/token/lookup-self" { capabilities = ["read"] }`})
	wantError(t, l, auth, "web", "grant update on "+signPath)

	l.call(t, http.MethodPut, "sys/policies/acl/mesh-web", map[string]any{"policy": `path "` + signPath + `" { capabilities = ["update"] }`})
	l.call(t, http.MethodDelete, "mesh-pki/roles/mesh-web", nil)
	wantError(t, l, auth, "web", `create role "mesh-web" of mesh-pki`)

	auth.RoleID = "no-such-role-id"
	wantError(t, l, auth, "web", "check role id and secret id")
	wantError(t, l, vault.Auth{Method: vault.TokenMethod, Token: "hvs.no-such-token"}, "web", "give a new one")
}

func wantError(t *testing.T, l *lab, auth vault.Auth, service, part string) {
	t.Helper()
	if _, err := l.issue(t, auth, service); err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, want %q", err, part)
	}
}

func TestRealVaultTakesAGivenToken(t *testing.T) {
	l := newLab(t)
	leaf, err := l.issue(t, vault.Auth{Method: vault.TokenMethod, Token: l.token}, "web")
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Identity != meshca.ID("web") {
		t.Errorf("identity is %s", leaf.Identity)
	}
}

func TestRealVaultTakesAJWTThatTheTestSigned(t *testing.T) {
	l := newLab(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l.call(t, http.MethodPost, "sys/auth/jwt-nomad", map[string]any{"type": "jwt"})
	l.call(t, http.MethodPost, "auth/jwt-nomad/config", map[string]any{
		"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))},
		"jwt_supported_algs":     []string{"ES256"},
	})
	l.call(t, http.MethodPost, "auth/jwt-nomad/role/mesh-web", map[string]any{
		"role_type": "jwt", "bound_audiences": []string{"vault.io"}, "user_claim": "sub",
		"bound_claims": map[string]any{"nomad_job_id": "web"}, "token_policies": []string{"mesh-web"}, "token_no_default_policy": true, "token_period": "30m",
	})
	file := filepath.Join(t.TempDir(), "jwt")
	auth := vault.Auth{Method: vault.JWTMethod, Mount: "jwt-nomad", Role: "mesh-web", JWTFile: file}

	writeJWT(t, file, key, "web")
	leaf, err := l.issue(t, auth, "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Check(l.bundle, meshca.ID("web"), time.Now()); err != nil {
		t.Error(err)
	}
	writeJWT(t, file, key, "another-job")
	wantError(t, l, auth, "web", `check role "mesh-web" of auth/jwt-nomad`)
}

// writeJWT makes a token as RFC 7515 and RFC 7518 §3.4 describe it.
func writeJWT(t *testing.T, file string, key *ecdsa.PrivateKey, job string) {
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
		"aud": "vault.io", "sub": "job:" + job, "nomad_job_id": job, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	hash := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	if err := os.WriteFile(file, []byte(text+"."+base64.RawURLEncoding.EncodeToString(signature)), 0o600); err != nil {
		t.Fatal(err)
	}
}
