// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

const (
	management  = "aaaaaaaa-0000-0000-0000-000000000001"
	clusterID   = "11111111-2222-3333-4444-555555555555"
	trustDomain = clusterID + ".consul"

	// Where README.md says that they are.
	consulAddr = "127.0.0.1:8500"
	vaultAddr  = "127.0.0.1:8200"
	vaultName  = "vault.service.consul"
	webAddr    = "127.0.0.1:8080" // the application web
	upstreamTo = "127.0.0.1:9191" // web's way to api

	apiAddr      = "127.0.0.1:8081" // the application api
	apiMeshPort  = 21900            // api's sidecar
	apiToWebAddr = "127.0.0.1:9292" // api's way to web
)

// lab is what a machine finds around it: Consul, whose ACLs deny by default and
// whose CA is in Vault; Vault behind TLS; and the service api with its sidecar.
type lab struct {
	consul *realserver.Consul
	vault  *realserver.Vault
	// What the owner of the machine was given, as files in his folder.
	credentials map[string]string
	trust       string // the CA certificates of the company, PEM
	api         *peer
}

// startLab starts all of it; program is the outrider beside api.
func startLab(t *testing.T, program string) *lab {
	t.Helper()
	l := &lab{vault: realserver.StartVault(t)}
	l.consul = realserver.StartConsul(t, realserver.Token(management), realserver.HCL(fmt.Sprintf(`
		connect {
			enabled     = true
			ca_provider = "vault"
			ca_config {
				cluster_id            = %q
				address               = %q
				token                 = %q
				root_pki_path         = "connect-root"
				intermediate_pki_path = "connect-intermediate"
			}
		}
		acl {
			enabled        = true
			default_policy = "deny"
			tokens {
				initial_management = %[4]q
				agent              = %[4]q
			}
		}`, clusterID, l.vault.Addr, l.vault.Token, management)))
	forward(t, consulAddr, l.consul.Addr)
	l.trust = serveTLS(t, vaultAddr, vaultName, l.vault.Addr)
	l.credentials = map[string]string{"consul.token": l.tokenFor(t, "web")}
	l.allow(t, "web")
	app(t, webAddr, "web")
	app(t, apiAddr, "api")
	l.api = startPeer(t, program, fmt.Sprintf(`
consul {
  address    = %q
  token_file = %q
}
service {
  name = "api"
  port = 8081
  connect {
    sidecar_service {
      port = %d
      proxy {
        upstreams {
          destination_name = "web"
          local_bind_port  = 9292
        }
      }
    }
  }
}
`, l.consul.Addr, file(t, l.tokenFor(t, "api")), apiMeshPort))
	return l
}

// tokenFor makes the token that Consul's documentation gives a service: its
// service identity, and nothing else.
func (l *lab) tokenFor(t *testing.T, name string) string {
	t.Helper()
	var token struct{ SecretID string }
	out := l.consul.Command(t, "acl", "token", "create", "-format=json", "-service-identity="+name)
	if err := json.Unmarshal([]byte(out), &token); err != nil || token.SecretID == "" {
		t.Fatalf("token for %s: %v: %s", name, err, out)
	}
	return token.SecretID
}

// allow makes the role, the policy and the AppRole of one service in Vault.
func (l *lab) allow(t *testing.T, name string) {
	t.Helper()
	role := "mesh-" + name
	l.vault.Command(t, "auth", "enable", "approle")
	l.vault.Command(t, "write", "connect-intermediate/roles/"+role,
		fmt.Sprintf("allowed_uri_sans=spiffe://%s/ns/default/dc/dc1/svc/%s", trustDomain, name),
		"allow_any_name=false", "allow_ip_sans=false", "require_cn=false", "use_csr_common_name=false",
		"key_type=ec", "key_bits=256", "no_store=true", "ttl=24h", "max_ttl=24h")
	policy := file(t, fmt.Sprintf("path \"connect-intermediate/sign/%s\" { capabilities = [\"update\"] }\n"+
		"path \"auth/token/renew-self\" { capabilities = [\"update\"] }\npath \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n", role))
	l.vault.Command(t, "policy", "write", role, policy)
	l.vault.Command(t, "write", "auth/approle/role/"+role, "token_policies="+role, "token_no_default_policy=true", "token_period=20m")
	l.credentials["vault.role-id"] = strings.TrimSpace(l.vault.Command(t, "read", "-field=role_id", "auth/approle/role/"+role+"/role-id"))
	l.credentials["vault.secret-id"] = strings.TrimSpace(l.vault.Command(t, "write", "-f", "-field=secret_id", "auth/approle/role/"+role+"/secret-id"))
}

// equip gives a root what its owner has: the names, the CA of the company, and
// the credentials of web in his own folder.
func (l *lab) equip(t *testing.T, r root) {
	t.Helper()
	r.write(t, "/etc/ssl/certs/ca-certificates.crt", l.trust, 0o644)
	for name, text := range l.credentials {
		r.write(t, "/root/"+name, text+"\n", 0o600)
	}
}

// intend makes or changes an intention.
func (l *lab) intend(t *testing.T, action, source, destination string) {
	t.Helper()
	l.consul.Command(t, "intention", "create", "-replace", "-"+action, source, destination)
}

// consulClient has one connection for each question.
func consulClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

// registered returns the IDs of the services that Consul's agent knows.
func (l *lab) registered(t *testing.T) map[string]bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.consul.Addr+"/v1/agent/services", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", management)
	resp, err := consulClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var services map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&services); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for id := range services {
		ids[id] = true
	}
	return ids
}

// passing returns nil once all checks of a service and of its sidecar pass, as
// callers elsewhere see them.
func (l *lab) passing(t *testing.T, name string) error {
	t.Helper()
	for _, id := range []string{name, name + "-sidecar-proxy"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.consul.Addr+"/v1/health/service/"+id+"?passing", nil)
		if err != nil {
			return fmt.Errorf("ask for the health of %s: %w", id, err)
		}
		req.Header.Set("X-Consul-Token", management)
		resp, err := consulClient().Do(req)
		if err != nil {
			return fmt.Errorf("ask for the health of %s: %w", id, err)
		}
		var instances []any
		err = json.NewDecoder(resp.Body).Decode(&instances)
		_ = resp.Body.Close()
		if err != nil {
			return fmt.Errorf("ask for the health of %s: status %d: %w", id, resp.StatusCode, err)
		}
		if len(instances) == 0 {
			return fmt.Errorf("no instance of %s passes", id)
		}
	}
	return nil
}

// file writes a file of the host that is nobody else's business.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// forward carries connections to addr on to another address.
func forward(t *testing.T, addr, to string) {
	t.Helper()
	l := listen(t, addr)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					_ = out.Close()
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
}

// serveTLS puts TLS before an HTTP server, under a certificate of its own for
// name, which it returns.
func serveTLS(t *testing.T, addr, name, to string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	origin, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listen(t, addr), Config: &http.Server{Handler: httputil.NewSingleHostReverseProxy(origin)}}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// slow is the path at which an application takes slowness to answer: longer than
// a stop leaves for news of it to spread, and shorter than it drains.
const (
	slow     = "/slow"
	slowness = 4 * time.Second
)

// app is an application that says its name, and is healthy.
func app(t *testing.T, addr, name string) {
	t.Helper()
	server := &httptest.Server{Listener: listen(t, addr), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == slow {
			select {
			case <-time.After(slowness):
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, name)
	})}}
	server.Start()
	t.Cleanup(server.Close)
}

// call makes one request over a connection of its own, and wants name as answer.
func call(t *testing.T, addr, name string) error {
	t.Helper()
	return callPath(t, addr, "/", name)
}

func callPath(t *testing.T, addr, path, name string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return fmt.Errorf("call %s: %w", addr, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5*time.Second + slowness}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil || string(body) != name {
		return fmt.Errorf("call %s: status %d, body %q, error %w", addr, resp.StatusCode, body, err)
	}
	return nil
}

// A peer is an outrider on the host of the tests, not on the machine.
type peer struct{ admin string }

func startPeer(t *testing.T, program, config string) *peer {
	t.Helper()
	p := &peer{admin: "unix://" + filepath.Join(t.TempDir(), "admin.sock")}
	path := filepath.Join(t.TempDir(), "peer.hcl")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%sadmin {\n  address = %q\n}\n", config, p.admin), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "agent", "-config", path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("log of the outrider beside api: %v\n%s", err, text)
		}
	})
	until(t, "the outrider beside api serves", func() error {
		if out, err := exec.CommandContext(t.Context(), program, "status", "-admin", p.admin).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return p
}
