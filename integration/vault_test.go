// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// vaultMesh is a mesh whose CA is Vault and whose leaves Vault signs directly,
// each through a role of its own that allows exactly one identity.
type vaultMesh struct {
	*mesh
	vault       *realserver.Vault
	trustDomain string
	creds       map[string]string // per service: HCL of its auth block
}

const trustDomain = "11111111-2222-3333-4444-555555555555.consul"

// vaultProvider makes Vault the CA of a Consul server.
func vaultProvider(v *realserver.Vault) string {
	return fmt.Sprintf(`connect {
		enabled     = true
		ca_provider = "vault"
		ca_config {
			cluster_id            = %q
			address               = %q
			token                 = %q
			root_pki_path         = "connect-root"
			intermediate_pki_path = "connect-inter"
		}
	}`, strings.TrimSuffix(trustDomain, ".consul"), v.Addr, v.Token)
}

// newVaultMesh starts Vault, Consul with its CA in Vault, and web → api with
// leaves that live for ttl.
func newVaultMesh(t *testing.T, ttl string) *vaultMesh {
	t.Helper()
	m := newVaultCA(t)
	consul := m.consul
	for _, name := range []string{"web", "api"} {
		m.allow(t, name, ttl)
	}
	m.port = freePort(t)
	m.api = start(t, consul, m.block("api", ttl)+service{name: "api", app: app(t, "api")}.stanza(t))
	m.web = start(t, consul, m.block("web", ttl)+service{name: "web", upstream: "api", port: m.port}.stanza(t))
	m.web.usableEndpoints(t, 1)
	return m
}

// allow makes the role, the policy and the AppRole of one service.
func (m *vaultMesh) allow(t *testing.T, name, ttl string) {
	t.Helper()
	role := "mesh-" + name
	m.vault.Command(t, "write", "connect-inter/roles/"+role,
		fmt.Sprintf("allowed_uri_sans=spiffe://%s/ns/default/dc/dc1/svc/%s", m.trustDomain, name),
		"allow_any_name=false", "allow_ip_sans=false", "require_cn=false", "use_csr_common_name=false",
		"key_type=ec", "key_bits=256", "no_store=true", "ttl="+ttl, "max_ttl="+ttl)
	policy := t.TempDir() + "/policy.hcl"
	writeFile(t, policy, fmt.Sprintf("path \"connect-inter/sign/%s\" { capabilities = [\"update\"] }\npath \"auth/token/renew-self\" { capabilities = [\"update\"] }\npath \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n", role))
	m.vault.Command(t, "policy", "write", role, policy)
	m.vault.Command(t, "write", "auth/approle/role/"+role, "token_policies="+role, "token_no_default_policy=true", "token_period=20m")
	roleID := strings.TrimSpace(m.vault.Command(t, "read", "-field=role_id", "auth/approle/role/"+role+"/role-id"))
	secretFile := t.TempDir() + "/secret-id"
	writeFile(t, secretFile, m.vault.Command(t, "write", "-f", "-field=secret_id", "auth/approle/role/"+role+"/secret-id"))
	m.creds[name] = fmt.Sprintf("auth \"approle\" {\n  role_id = %q\n  secret_id_file = %q\n }", roleID, secretFile)
}

func (m *vaultMesh) block(name, ttl string) string {
	return fmt.Sprintf("vault {\n address = %q\n %s\n pki {\n  mount = \"connect-inter\"\n  role = \"mesh-${service}\"\n  ttl = %q\n }\n}\n", m.vault.Addr, m.creds[name], ttl)
}

// serial is the serial number of the leaf in force.
func (o *outrider) serial(t *testing.T) string {
	t.Helper()
	return o.status(t).Leaf.Serial
}

// renewal is how long a new leaf may take by design: Consul's agent spreads the
// renewals that a new root brings about over 30 s, and the leaves of Vault in
// these tests are renewed when at most 68 s old.
const renewal = 70 * time.Second

// newLeaf waits until the leaf is another than the given one.
func (o *outrider) newLeaf(t *testing.T, old string) string {
	t.Helper()
	var now string
	untilWithin(t, renewal+patience, "the leaf is renewed", func() error {
		if now = o.serial(t); now == old {
			return fmt.Errorf("it is still %s", old)
		}
		return nil
	})
	return now
}

func TestVaultLeafChainsAndRotatesUnderTrafficWithoutLoss(t *testing.T) {
	t.Parallel()
	m := newVaultMesh(t, "20s")
	for _, o := range []*outrider{m.web, m.api} {
		if leaf := o.status(t).Leaf; !strings.Contains(strings.ToLower(leaf.Issuer), "vault") {
			t.Fatalf("the leaf is from %q", leaf.Issuer)
		}
		text, err := o.ask("/metrics")
		if err == nil { // its period is 20 minutes
			err = hasSeries(string(text), "outrider_token_seconds_to_expiry", `(1?[1-9]|10)\d\d(\.\d+)?`, `kind="vault_token"`)
		}
		if err != nil {
			t.Error(err)
		}
	}
	l := startLoad(t, m.port, 5)
	web, api := m.web.serial(t), m.api.serial(t)
	for range 2 {
		web, api = m.web.newLeaf(t, web), m.api.newLeaf(t, api)
		l.more(t, 200)
	}
	l.end(t)
}

func TestVaultDownForThirtySecondsCostsNothing(t *testing.T) {
	t.Parallel()
	m := newVaultMesh(t, "75s")
	l := startLoad(t, m.port, 3)
	serial := m.web.serial(t)
	m.vault.Pause(t) // it accepts connections and answers nothing
	flowFor(t, l, outage)
	if now := m.web.serial(t); now != serial {
		t.Fatal("the leaf was renewed while Vault was down")
	}
	m.vault.Resume(t)
	m.web.newLeaf(t, serial)
	l.more(t, 200)
	l.end(t)
}

// A new root in Vault: Consul takes another root mount, cross-signs, and the
// sidecars get leaves under the new intermediate.
func TestVaultRootRotationUnderTraffic(t *testing.T) {
	t.Parallel()
	m := newVaultMesh(t, "1h")
	l := startLoad(t, m.port, 3)
	web, api := m.web.serial(t), m.api.serial(t)
	config := map[string]any{"Provider": "vault", "Config": map[string]any{
		"Address": m.vault.Addr, "Token": m.vault.Token,
		"RootPKIPath": "connect-root-2", "IntermediatePKIPath": "connect-inter",
	}}
	setCA(t, m.consul, config)
	m.web.newLeaf(t, web)
	m.api.newLeaf(t, api)
	l.more(t, 200)
	l.end(t)
	if roots := m.api.status(t).Roots; len(roots) != 2 {
		t.Errorf("%d roots are trusted, want the old and the new one", len(roots))
	}
}

func setCA(t *testing.T, consul *realserver.Consul, config map[string]any) {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/ca.json"
	writeFile(t, path, string(text))
	consul.Command(t, "connect", "ca", "set-config", "-config-file", path)
}
