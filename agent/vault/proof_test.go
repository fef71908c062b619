// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/internal/fakevault"
)

// A machine has every identity of every cloud, or says err.
type machine struct {
	scaleSet string
	err      error
	asked    *[]string
}

func (m machine) ask(what string) error {
	if m.asked != nil {
		*m.asked = append(*m.asked, what)
	}
	return m.err
}

func (m machine) RoleKeys(context.Context) (RoleKeys, error) {
	return RoleKeys{"ASIA", "secret-key-of-the-role", "session-token-of-the-role"}, m.ask("keys")
}

func (m machine) ServiceAccountToken(_ context.Context, account, audience string) (string, error) {
	return "jwt-of-google", m.ask(account + " for " + audience)
}

func (m machine) ManagedToken(_ context.Context, resource string) (string, error) {
	return "jwt-of-azure", m.ask(resource)
}

func (m machine) VirtualMachine(context.Context) (VirtualMachine, error) {
	vm := VirtualMachine{Subscription: "sub", ResourceGroup: "group", Name: "web-7", ScaleSet: m.scaleSet}
	return vm, m.ask("machine")
}

// logsInBy makes the world of one machine method, whose login Vault knows.
func logsInBy(t *testing.T, auth Auth, m machine, lease fakevault.Lease) *world {
	t.Helper()
	w := newWorld(t, Auth{Method: TokenMethod, Token: "hvs.unused-token"})
	jwt := map[string]string{GCPMethod: "jwt-of-google", AzureMethod: "jwt-of-azure"}[auth.Method]
	w.vault.AllowJWT(auth.mount(), auth.Role, jwt, lease)
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: w.log})
	client, err := newClient(Config{Address: fakevault.Address, Auth: auth, Machine: m}, logger, w.vault.Dial)
	if err != nil {
		t.Fatal(err)
	}
	w.leaf.client, w.client = client, client
	w.hide("secret-key-of-the-role", "session-token-of-the-role", "jwt-of-google", "jwt-of-azure")
	return w
}

func TestAMachineLogsInByWhatItsCloudSaysOfIt(t *testing.T) {
	tests := map[string]struct {
		auth  Auth
		m     machine
		asked []string
		body  map[string]any
	}{
		"gcp": {
			Auth{Method: GCPMethod, Role: "mesh", ServiceAccount: "a@p.iam"}, machine{}, []string{"a@p.iam for http://vault/mesh"},
			map[string]any{"role": "mesh", "jwt": "jwt-of-google"},
		},
		"azure": {
			Auth{Method: AzureMethod, Role: "mesh"}, machine{}, []string{"https://management.azure.com/", "machine"},
			map[string]any{"role": "mesh", "jwt": "jwt-of-azure", "subscription_id": "sub", "resource_group_name": "group", "vm_name": "web-7"},
		},
		"scale set": {
			Auth{Method: AzureMethod, Role: "mesh", Mount: "az", Resource: "api://vault"}, machine{scaleSet: "fleet"}, []string{"api://vault", "machine"},
			map[string]any{"role": "mesh", "jwt": "jwt-of-azure", "subscription_id": "sub", "resource_group_name": "group", "vmss_name": "fleet"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked []string
				test.m.asked = &asked
				w := logsInBy(t, test.auth, test.m, fakevault.Lease{TTL: time.Hour, Renewable: true})
				w.start()
				if len(w.leaves()) != 1 {
					t.Errorf("%d leaves after the start, want 1: %v", len(w.leaves()), w.leaf.Status().LastError)
				}
				logins := w.vault.Requests("auth/" + test.auth.mount() + "/login")
				if len(logins) != 1 {
					t.Fatalf("%d logins", len(logins))
				}
				if diff := cmp.Diff(test.body, logins[0].Body); diff != "" {
					t.Errorf("body of the login (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.asked, asked); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestLoginToAWSCarriesItsRoleAndIsRepeatedWithNewKeysBeforeTheTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		auth := Auth{Method: AWSMethod, Role: "mesh", Region: "eu-central-1"}
		w := logsInBy(t, auth, machine{asked: &asked}, fakevault.Lease{TTL: time.Hour, Max: 3 * time.Hour, Renewable: true})
		w.start()
		w.pass(12 * time.Hour)
		logins := w.vault.Requests("auth/aws/login")
		if len(logins) < 4 || len(asked) != len(logins) {
			t.Errorf("%d logins in twelve hours of tokens of three, with %d sets of keys", len(logins), len(asked))
		}
		if len(w.vault.Requests("auth/token/renew-self")) < len(logins) {
			t.Error("tokens are not renewed between the logins")
		}
		for _, r := range logins {
			if r.Body["role"] != "mesh" || decode(t, r.Body["iam_request_url"]) != "https://sts.eu-central-1.amazonaws.com/" || r.Status != 200 {
				t.Errorf("login %v, status %d", r.Body, r.Status)
			}
		}
		if lines := w.log.lines("[WARN]"); len(lines) > 0 {
			t.Errorf("warnings:\n%s", strings.Join(lines, ""))
		}
	})
}

func TestAMachineThatCannotProveItselfSaysWhyAndGoesOnTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := logsInBy(t, Auth{Method: AWSMethod, Role: "mesh"}, machine{err: errors.New("it has none: attach an instance profile")}, fakevault.Lease{})
		w.start()
		w.pass(5 * time.Minute)
		lines := w.log.lines("[WARN]", "cannot log in to Vault", "auth method aws at auth/aws: it has none: attach an instance profile")
		if len(lines) == 0 {
			t.Errorf("log:\n%s", strings.Join(w.log.lines(), ""))
		}
		if len(w.vault.Requests("auth/")) > 0 {
			t.Error("Vault was asked without a proof")
		}
	})
}

func TestARefusedProofIsNotShownAndNamesWhatToCheck(t *testing.T) {
	for method, want := range map[string]string{
		AWSMethod: "bound_iam_principal_arn", GCPMethod: "type=gce", AzureMethod: "its bound subscriptions",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := logsInBy(t, Auth{Method: method, Role: "mesh"}, machine{}, fakevault.Lease{})
			w.vault.Forbid() // and echo the request
			w.start()
			if lines := w.log.lines("cannot log in", want); len(lines) != 1 {
				t.Errorf("log:\n%s", strings.Join(w.log.lines(), ""))
			}
		})
	}
}
