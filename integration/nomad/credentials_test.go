// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// consulIdentity makes the sidecar log in to Consul by itself, with the method
// whose tokens live for a minute.
const consulIdentity = `
          identity {
            name = "outrider_consul"
            aud  = ["consul.io"]
            file = true
            ttl  = "1h"
          }
          env {
            CONSUL_LOGIN_AUTH_METHOD = "sidecars"
          }`

// testShortTokens calls for five minutes with Consul tokens that live for one,
// and has an intention changed at the end: what the sidecars hear is as fresh as
// their tokens. That time passes for the other properties as well.
func testShortTokens(t *testing.T, l *lab) {
	t.Parallel()
	const life = 5 * time.Minute
	l.intend(t, "tide", map[string]string{"moon": "allow"})
	l.run(t, shape{"tide", []group{{name: "tide", says: "high", sidecar: rawExec(consulIdentity)}}}.String())
	moon := l.alloc(t, l.run(t, shape{"moon", []group{{name: "moon", upstreams: map[string]int{"tide": 5000}, sidecar: rawExec(consulIdentity)}}}.String()), "moon")
	moon.answers(t, 5000, "high")
	load := moon.load(t, 5000, 2, 100*time.Millisecond)
	began := time.Now()
	for time.Since(began) < life {
		load.more(t, 100)
	}
	load.unharmed(t)
	l.intend(t, "tide", map[string]string{"moon": "deny"})
	moon.refuses(t, 5000)
	l.intend(t, "tide", map[string]string{"moon": "allow"})
	moon.answers(t, 5000, "high")
	// A token is gone at Consul a minute after it was made, so those there are now
	// are of the last minute, and few.
	if now := l.tokensOf(t, "sidecars"); now == 0 || now > 8 {
		t.Errorf("there are %d tokens of the two sidecars", now)
	}
}

// tokensOf counts the tokens that logins at an auth method have made.
func (l *lab) tokensOf(t testing.TB, method string) int {
	t.Helper()
	var tokens []struct{ AuthMethod string }
	if err := json.Unmarshal([]byte(l.consul.Command(t, "acl", "token", "list", "-format=json")), &tokens); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, token := range tokens {
		if token.AuthMethod == method {
			n++
		}
	}
	return n
}

// testDeadToken deletes the token that Nomad gave to a sidecar, which Nomad never
// renews: the sidecar serves on, and says what is the matter.
func testDeadToken(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "lamp", map[string]string{"reader": "allow"})
	job := l.run(t, shape{"lamps", []group{
		{name: "lamp", says: "light"},
		{name: "reader", upstreams: map[string]int{"lamp": 5000}},
	}}.String())
	reader := l.alloc(t, job, "reader")
	reader.answers(t, 5000, "light")
	token, err := os.ReadFile(filepath.Join(reader.dir("connect-proxy-reader"), "secrets", "si_token"))
	if err != nil {
		t.Fatal(err)
	}
	var self struct{ AccessorID string }
	if err := json.Unmarshal([]byte(l.consul.Command(t, "acl", "token", "read", "-self", "-format=json", "-token", strings.TrimSpace(string(token)))), &self); err != nil {
		t.Fatal(err)
	}
	load := reader.load(t, 5000, 2, 50*time.Millisecond)
	l.consul.Command(t, "acl", "token", "delete", "-accessor-id", self.AccessorID)
	reader.says(t, "connect-proxy-reader", "ACL not found", "si_token", "identity")
	load.more(t, 50)
	load.unharmed(t)
	if restarts := reader.task(t, "connect-proxy-reader").Restarts; restarts != 0 {
		t.Errorf("the sidecar was restarted %d times", restarts)
	}
}

// says waits until the stderr of a task holds all of the words.
func (a *alloc) says(t testing.TB, task string, words ...string) {
	t.Helper()
	until(t, fmt.Sprintf("%s says %q", task, words), func() error {
		text := a.stderr(t, task)
		for _, word := range words {
			if !strings.Contains(text, word) {
				return fmt.Errorf("%q is missing in:\n%s", word, last(text))
			}
		}
		return nil
	})
}

// testVault runs the example whose sidecars have Vault sign their leaves.
func testVault(t *testing.T, l *lab) {
	t.Parallel()
	for _, service := range []string{"ledger", "billing"} {
		l.vaultMesh(t, service, "vault")
	}
	l.intend(t, "ledger", map[string]string{"billing": "allow"})
	job := l.runWith(t, "vault.nomad.hcl", map[string]string{"vault": l.vaultOutside(t), "pki_mount": "connect-inter"})
	billing := l.alloc(t, job, "billing")
	billing.answers(t, 9191, "hello from ledger")
	for _, group := range []string{"ledger", "billing"} {
		issuedByRole(t, l, l.alloc(t, job, group), "mesh")
	}
}

// testVaultIdentity has an ordinary sidecar_task log in to Vault with an identity.
func testVaultIdentity(t *testing.T, l *lab) {
	t.Parallel()
	l.vaultMesh(t, "notary", "notary")
	l.intend(t, "notary", map[string]string{"client": "allow"})
	sidecar := rawExec(fmt.Sprintf(`
          identity {
            name = "outrider_vault"
            aud  = ["vault.io"]
            file = true
            ttl  = "1h"
          }
          env {
            VAULT_ADDR               = %q
            VAULT_JWT_ROLE           = "mesh-notary"
            OUTRIDER_VAULT_PKI_MOUNT = "connect-inter"
            OUTRIDER_VAULT_PKI_ROLE  = "mesh-notary"
          }`, l.vault.Addr))
	notary := l.alloc(t, l.run(t, shape{"notary", []group{{name: "notary", says: "sealed", sidecar: sidecar}}}.String()), "notary")
	client := l.alloc(t, l.run(t, shape{"client", []group{{name: "client", upstreams: map[string]int{"notary": 5000}}}}.String()), "client")
	client.answers(t, 5000, "sealed")
	issuedByRole(t, l, notary, "connect-proxy-notary")
}

// issuedByRole checks that the leaf in force was signed for no longer than the
// role allows, a day: Consul's own live for three.
func issuedByRole(t testing.TB, l *lab, a *alloc, task string) {
	t.Helper()
	status := a.status(t, task)
	if len(status.Sidecars) != 1 || status.Sidecars[0].Leaf == nil {
		t.Fatalf("no leaf in %+v", status)
	}
	leaf := status.Sidecars[0].Leaf
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 25*time.Hour || status.Vault == "" {
		t.Errorf("the leaf of %s lives for %v, Vault is %q", task, life, status.Vault)
	}
}

// vaultOutside is an address of Vault on the host that groups can reach.
func (l *lab) vaultOutside(t testing.TB) string {
	t.Helper()
	return "http://" + forward(t, realserver.HostAddress+":0", strings.TrimPrefix(l.vault.Addr, "http://"))
}
