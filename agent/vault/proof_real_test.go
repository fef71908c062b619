// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/internal/meshca"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// An authority signs the certificates of hosts, Vault's own among them.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate in PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hosts"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(t, template, a.file, "")
	return a
}

// host writes certificate and key of a host, and replaces older ones.
func (a *authority) host(t *testing.T, name, certFile, keyFile string) {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	a.sign(t, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, certFile, keyFile)
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if keyFile != "" {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	}
	replace(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})))
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// certLab is a lab whose Vault also listens with TLS and takes certificates of
// host web-7.
func certLab(t *testing.T, ttl string) (*lab, *authority, vault.Config) {
	t.Helper()
	a, dir, listen := newAuthority(t), t.TempDir(), realserver.FreeAddr(t)
	a.host(t, "vault", filepath.Join(dir, "vault.pem"), filepath.Join(dir, "vault-key.pem"))
	config := filepath.Join(dir, "tls.hcl")
	replace(t, config, fmt.Sprintf("listener \"tcp\" {\n  address = %q\n  tls_cert_file = %q\n  tls_key_file = %q\n}\n",
		listen, filepath.Join(dir, "vault.pem"), filepath.Join(dir, "vault-key.pem")))
	l := newLab(t, "-config="+config)
	ca, err := os.ReadFile(a.file)
	if err != nil {
		t.Fatal(err)
	}
	l.call(t, http.MethodPost, "sys/auth/cert", map[string]any{"type": "cert"})
	l.call(t, http.MethodPost, "auth/cert/certs/mesh-hosts", map[string]any{
		"certificate": string(ca), "allowed_common_names": []string{"web-7"}, "token_policies": []string{"mesh-web"}, "token_ttl": ttl, "token_max_ttl": "1h",
	})
	auth := vault.Auth{Method: vault.CertMethod, Role: "mesh-hosts", CertFile: filepath.Join(dir, "host.pem"), KeyFile: filepath.Join(dir, "host-key.pem")}
	return l, a, vault.Config{Address: "https://" + listen, Auth: auth, TLS: vault.TLS{CAFile: a.file}}
}

func TestRealVaultTakesTheCertificateOfAHostAndNoOther(t *testing.T) {
	l, a, cfg := certLab(t, "1h")
	a.host(t, "web-7", cfg.Auth.CertFile, cfg.Auth.KeyFile)
	leaf, err := l.issueWith(t, cfg, "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Check(l.bundle, meshca.ID("web"), time.Now()); err != nil {
		t.Error(err)
	}
	// The certificate may stand in the tls block as well.
	shared := cfg
	shared.TLS.CertFile, shared.TLS.KeyFile = cfg.Auth.CertFile, cfg.Auth.KeyFile
	shared.Auth.CertFile, shared.Auth.KeyFile = "", ""
	if _, err := l.issueWith(t, shared, "web"); err != nil {
		t.Error(err)
	}
	a.host(t, "web-8", cfg.Auth.CertFile, cfg.Auth.KeyFile)
	if _, err := l.issueWith(t, cfg, "web"); err == nil || !strings.Contains(err.Error(), "check that a role of auth/cert trusts the CA of the certificate") {
		t.Errorf("another host: %v", err)
	}
	newAuthority(t).host(t, "web-7", cfg.Auth.CertFile, cfg.Auth.KeyFile)
	if _, err := l.issueWith(t, cfg, "web"); err == nil || !strings.Contains(err.Error(), "Vault answered 400") {
		t.Errorf("another CA: %v", err)
	}
}

// Vault renews a token only for the certificate it was given for, so the whole
// client must show the one that is in the file now.
func TestRealVaultRenewsForAHostWhoseCertificateIsReplaced(t *testing.T) {
	l, a, cfg := certLab(t, "4s")
	l.server.Command(t, "patch", "mesh-pki/roles/mesh-web", "not_before_duration=1s", "ttl=3s")
	a.host(t, "web-7", cfg.Auth.CertFile, cfg.Auth.KeyFile)
	r := l.startWith(t, cfg)
	r.next(t, time.Minute)
	for r.count("renewed the Vault token") < 2 {
		r.next(t, 20*time.Second)
	}
	logins := r.count("logged in to Vault")
	a.host(t, "web-7", cfg.Auth.CertFile, cfg.Auth.KeyFile)
	for r.count("logged in to Vault") == logins {
		r.next(t, 20*time.Second)
	}
	renewals := r.count("renewed the Vault token")
	for r.count("renewed the Vault token") < renewals+2 {
		r.next(t, 20*time.Second)
	}
}

// awsMachine has keys of a role.
type awsMachine struct{ vault.Machine }

func (awsMachine) RoleKeys(context.Context) (vault.RoleKeys, error) {
	return vault.RoleKeys{ID: "ASIAEXAMPLE", Secret: "secret-key-of-the-role", Session: "session-token"}, nil
}

// Vault itself checks the login's form and sends the request that is in it to
// AWS; only AWS is played here.
func TestRealVaultSendsTheSignedRequestToAWSAndBelievesItsAnswer(t *testing.T) {
	var role atomic.Value
	role.Store("mesh-host")
	var problem atomic.Value
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if why := notSigned(r, string(body)); why != "" {
			problem.Store(why)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "text/xml")
		_, _ = fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:sts::123456789012:assumed-role/%s/i-0abc</Arn><UserId>AROAEXAMPLE:i-0abc</UserId><Account>123456789012</Account>
</GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>`, role.Load())
	}))
	t.Cleanup(sts.Close)
	l := newLab(t, "-dev-plugin-dir="+realserver.VaultPlugins(t))
	l.call(t, http.MethodPost, "sys/auth/aws", map[string]any{"type": "vault-auth-aws"})
	l.call(t, http.MethodPost, "auth/aws/config/client", map[string]any{
		"sts_endpoint": sts.URL, "sts_region": "eu-central-1", "iam_server_id_header_value": "vault.mesh",
	})
	l.call(t, http.MethodPost, "auth/aws/role/mesh-hosts", map[string]any{
		"auth_type": "iam", "bound_iam_principal_arn": []string{"arn:aws:iam::123456789012:role/mesh-host"}, "resolve_aws_unique_ids": false,
		"token_policies": []string{"mesh-web"}, "token_no_default_policy": true, "token_ttl": "1h",
	})
	cfg := vault.Config{Address: l.addr, Machine: awsMachine{}, Auth: vault.Auth{Method: vault.AWSMethod, Role: "mesh-hosts", Region: "eu-central-1", HeaderValue: "vault.mesh"}}
	leaf, err := l.issueWith(t, cfg, "web")
	if err != nil {
		t.Fatalf("%v; AWS says %v", err, problem.Load())
	}
	if err := leaf.Check(l.bundle, meshca.ID("web"), time.Now()); err != nil {
		t.Error(err)
	}
	role.Store("another-role")
	if _, err := l.issueWith(t, cfg, "web"); err == nil || !strings.Contains(err.Error(), "bound_iam_principal_arn with the role of the instance profile") {
		t.Errorf("another role: %v", err)
	}
	role.Store("mesh-host")
	cfg.Auth.HeaderValue = "another.vault"
	if _, err := l.issueWith(t, cfg, "web"); err == nil || !strings.Contains(err.Error(), "header_value") {
		t.Errorf("another Vault's header: %v", err)
	}
}

// notSigned says what AWS would not accept, as far as form goes.
func notSigned(r *http.Request, body string) string {
	authorization := r.Header.Get("Authorization")
	switch {
	case r.Method != http.MethodPost || body != "Action=GetCallerIdentity&Version=2011-06-15":
		return "not GetCallerIdentity: " + r.Method + " " + body
	case !strings.HasPrefix(authorization, "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/"):
		return "not signed: " + authorization
	case !strings.Contains(authorization, "/eu-central-1/sts/aws4_request, ") || !strings.Contains(authorization, "x-vault-aws-iam-server-id"):
		return "wrongly scoped: " + authorization
	case r.Header.Get("X-Amz-Security-Token") != "session-token" || r.Header.Get("X-Amz-Date") == "":
		return "headers are missing"
	}
	return ""
}
