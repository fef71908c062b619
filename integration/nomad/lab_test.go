// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/hashicorp/nomad/api"

	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

const (
	managementToken = "aaaaaaaa-0000-0000-0000-000000000001"
	clusterID       = "11111111-2222-3333-4444-555555555555"
	trustDomain     = clusterID + ".consul"

	// wanPort is where Consul's servers meet those of another datacenter.
	wanPort = 8302

	// patience bounds each wait for something that other processes bring about.
	patience = 90 * time.Second
)

// lab is one host with Consul, whose ACLs deny by default and whose CA is in
// Vault, and a Nomad whose workloads have identities for both.
type lab struct {
	consul *realserver.Consul
	vault  *realserver.Vault
	nomad  *realserver.Nomad
	api    *api.Client
}

func startLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{vault: realserver.StartVault(t)}
	l.consul = realserver.StartConsul(t, realserver.Token(managementToken), realserver.HCL(fmt.Sprintf(`
		addresses { http = "127.0.0.1 %s" }
		ports { serf_wan = %d }
		limits { http_max_conns_per_client = 2000 }
		connect {
			enabled     = true
			ca_provider = "vault"
			ca_config {
				cluster_id            = %q
				address               = %q
				token                 = %q
				root_pki_path         = "connect-root"
				intermediate_pki_path = "connect-inter"
			}
		}
		acl {
			enabled        = true
			default_policy = "deny"
			tokens {
				initial_management = %q
				agent              = %q
			}
		}`, realserver.HostAddress, wanPort, clusterID, l.vault.Addr, l.vault.Token, managementToken, managementToken)))
	path := t.TempDir()
	for name, variable := range map[string]string{"consul": "OUTRIDER_CONSUL", "envoy": "OUTRIDER_ENVOY"} {
		link(t, realserver.Binary(t, name, variable), filepath.Join(path, name))
	}
	l.nomad = realserver.StartNomad(t, realserver.NomadOptions{Dir: "/run/nomad", Path: []string{programs(), path}, HCL: l.nomadBlocks()})
	client, err := api.NewClient(&api.Config{Address: l.nomad.Addr})
	if err != nil {
		t.Fatal(err)
	}
	l.api = client
	l.letWorkloadsIntoConsul(t)
	l.letWorkloadsIntoVault(t)
	return l
}

func link(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Symlink(from, to); err != nil {
		t.Fatal(err)
	}
}

func (l *lab) nomadBlocks() string {
	return fmt.Sprintf(`
consul {
  address      = %q
  grpc_address = %q
  token        = %q
  service_identity {
    aud = ["consul.io"]
    ttl = "1h"
  }
  task_identity {
    aud = ["consul.io"]
    ttl = "1h"
  }
}
vault {
  enabled               = true
  address               = %q
  jwt_auth_backend_path = "jwt-nomad"
  create_from_role      = "nomad-workloads"
  default_identity {
    aud = ["vault.io"]
    ttl = "1h"
  }
}
client {
  chroot_env = {
    %q = "/usr/bin/outrider"
    "/etc/passwd" = "/etc/passwd"
  }
}
`, l.consul.Addr, l.consul.GRPC, managementToken, l.vault.Addr, filepath.Join(programs(), "outrider"))
}

// letWorkloadsIntoConsul sets up what "nomad setup consul" does: an auth method,
// a rule for services and one for tasks. The method sidecars is for sidecars
// that log in by themselves, with tokens that live for a minute: the job has the
// name of the service.
func (l *lab) letWorkloadsIntoConsul(t testing.TB) {
	t.Helper()
	method := filepath.Join(t.TempDir(), "method.json")
	write(t, method, fmt.Sprintf(`{
		"JWKSURL": %q, "JWTSupportedAlgs": ["RS256"], "BoundAudiences": ["consul.io"],
		"ClaimMappings": {"nomad_namespace": "nomad_namespace", "nomad_job_id": "nomad_job_id", "nomad_task": "nomad_task", "nomad_service": "nomad_service"}
	}`, l.nomad.Keys))
	acl := func(args ...string) { l.consul.Command(t, append([]string{"acl"}, args...)...) }
	acl("auth-method", "create", "-type", "jwt", "-name", "nomad-workloads", "-max-token-ttl", "1h", "-token-locality", "global", "-config", "@"+method)
	acl("binding-rule", "create", "-method", "nomad-workloads", "-bind-type", "service", "-bind-name", "${value.nomad_service}", "-selector", `"nomad_service" in value`)
	acl("binding-rule", "create", "-method", "nomad-workloads", "-bind-type", "role", "-bind-name", "nomad-${value.nomad_namespace}-tasks", "-selector", `"nomad_service" not in value`)
	acl("policy", "create", "-name", "nomad-tasks", "-rules", `service_prefix "" { policy = "read" }  node_prefix "" { policy = "read" }
		service "database" { policy = "write" }  service "database-sidecar-proxy" { policy = "write" }`)
	acl("role", "create", "-name", "nomad-default-tasks", "-policy-name", "nomad-tasks")
	acl("auth-method", "create", "-type", "jwt", "-name", "sidecars", "-max-token-ttl", "1m", "-token-locality", "local", "-config", "@"+method)
	acl("binding-rule", "create", "-method", "sidecars", "-bind-type", "service", "-bind-name", "${value.nomad_job_id}")
}

// letWorkloadsIntoVault makes the auth mount of Nomad's identities. Their
// default role may do nothing but keep its token.
func (l *lab) letWorkloadsIntoVault(t testing.TB) {
	t.Helper()
	l.vault.Command(t, "auth", "enable", "-path=jwt-nomad", "jwt")
	l.vault.Command(t, "write", "auth/jwt-nomad/config", "jwks_url="+l.nomad.Keys, "jwt_supported_algs=RS256,EdDSA")
	l.vaultLogin(t, "nomad-workloads", nil, "default")
}

// vaultLogin makes a role of the auth mount for identities with these claims.
func (l *lab) vaultLogin(t testing.TB, role string, claims map[string]string, policies ...string) {
	t.Helper()
	var bound []string
	for name, value := range claims {
		bound = append(bound, fmt.Sprintf("%q: %q", name, value))
	}
	file := filepath.Join(t.TempDir(), "role.json")
	write(t, file, fmt.Sprintf(`{
		"role_type": "jwt", "bound_audiences": ["vault.io"], "user_claim": "/nomad_job_id", "user_claim_json_pointer": true,
		"bound_claims": {%s}, "token_type": "service", "token_policies": ["%s"], "token_period": "30m", "token_explicit_max_ttl": 0
	}`, strings.Join(bound, ", "), strings.Join(policies, `", "`)))
	l.vault.Command(t, "write", "auth/jwt-nomad/role/"+role, "@"+file)
}

// vaultMesh lets the workloads of a job sign leaves of one service, and of no
// other.
func (l *lab) vaultMesh(t testing.TB, service, job string) {
	t.Helper()
	role := "mesh-" + service
	l.vault.Command(t, "write", "connect-inter/roles/"+role,
		fmt.Sprintf("allowed_uri_sans=spiffe://%s/ns/default/dc/dc1/svc/%s", trustDomain, service),
		"allow_any_name=false", "allow_ip_sans=false", "require_cn=false", "use_csr_common_name=false",
		"key_type=ec", "key_bits=256", "no_store=true", "ttl=1h", "max_ttl=24h")
	policy := filepath.Join(t.TempDir(), "policy.hcl")
	write(t, policy, fmt.Sprintf("path \"connect-inter/sign/%s\" { capabilities = [\"update\"] }\npath \"auth/token/renew-self\" { capabilities = [\"update\"] }\npath \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n", role))
	l.vault.Command(t, "policy", "write", role, policy)
	l.vaultLogin(t, role, map[string]string{"nomad_job_id": job}, role)
}

// intend writes who may call a service; what is not written is denied.
func (l *lab) intend(t testing.TB, service string, sources map[string]string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "Kind = \"service-intentions\"\nName = %q\nSources = [\n", service)
	for name, action := range sources {
		fmt.Fprintf(&b, "  { Name = %q, Action = %q },\n", name, action)
	}
	b.WriteString("]\n")
	l.configEntry(t, b.String())
}

func (l *lab) configEntry(t testing.TB, entry string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "entry.hcl")
	write(t, file, entry)
	l.consul.Command(t, "config", "write", file)
}

// outrider runs one command of the program on the host and returns what it
// wrote to stdout, to stderr, and whether it ended well.
func (l *lab) outrider(t testing.TB, stdin string, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	var out, errors bytes.Buffer
	// A test that has failed still asks, when its context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(programs(), "outrider"), args...)
	cmd.Env = append(os.Environ(), append(l.consul.Env(), "NOMAD_ADDR="+l.nomad.Addr)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errors
	err := cmd.Run()
	return out.String(), errors.String(), err == nil
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// until polls a condition; err says what is still wrong.
func until(t testing.TB, what string, ask func() error) {
	t.Helper()
	harness.Until(t, patience, what, ask)
}

// healthy is how many instances of a service pass all of their checks, and what
// Consul has against others at this time.
func healthy(l *lab, service string) (int, string, error) {
	client, err := consul.NewClient(&consul.Config{Address: l.consul.Addr, Token: managementToken})
	if err != nil {
		return 0, "", err
	}
	entries, _, err := client.Health().Service(service, "", true, nil)
	if err != nil {
		return 0, "", err
	}
	critical, _, err := client.Health().State(consul.HealthCritical, nil)
	var against strings.Builder
	for _, check := range critical {
		fmt.Fprintf(&against, "; check %q of %s: %s", check.Name, check.ServiceID, strings.TrimSpace(check.Output))
	}
	return len(entries), against.String(), err
}

// virtualIP waits for the address that Consul gives to a service.
func (l *lab) virtualIP(t testing.TB, service string) string {
	t.Helper()
	client, err := consul.NewClient(&consul.Config{Address: l.consul.Addr, Token: managementToken})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Chain struct{ AutoVirtualIPs []string }
	}
	until(t, "a virtual IP of "+service, func() error {
		_, err := client.Raw().Query("/v1/discovery-chain/"+service, &answer, nil)
		if err == nil && len(answer.Chain.AutoVirtualIPs) == 0 {
			err = fmt.Errorf("it has none yet")
		}
		return err
	})
	return answer.Chain.AutoVirtualIPs[0]
}
