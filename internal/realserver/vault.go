// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// vaultVersion is the version the tests were written for.
const vaultVersion = "1.21.0"

// A Vault is one running dev server, unsealed and in memory. Its methods are
// for one goroutine at a time.
type Vault struct {
	*process

	// Addr is the URL of the API, as VAULT_ADDR takes it. A restart does not
	// change it.
	Addr string
	// Token is the root token.
	Token string

	path   string
	dir    string
	listen string
	more   []string // arguments
}

// StartVault starts a dev server and waits until it is unsealed. It is killed
// when t ends; its log is shown if t has failed. More arguments are those of
// vault server.
func StartVault(t testing.TB, more ...string) *Vault {
	t.Helper()
	v := &Vault{Token: "root", path: binary(t, "vault", "OUTRIDER_VAULT", vaultVersion), dir: t.TempDir(), more: more}
	var err error
	for range 3 {
		v.listen = FreeAddr(t)
		v.Addr = "http://" + v.listen
		v.run(t)
		if err = v.until(t, v.ready); !errors.Is(err, errExited) || !strings.Contains(v.Output(), "address already in use") {
			break
		}
	}
	if err != nil {
		t.Fatalf("start vault: %v; its log:\n%s", err, v.Output())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of vault at %s:\n%s", v.Addr, v.Output())
		}
	})
	return v
}

func (v *Vault) run(t testing.TB) {
	t.Helper()
	args := []string{"server", "-dev", "-dev-no-store-token", "-dev-root-token-id=" + v.Token, "-dev-listen-address=" + v.listen}
	v.process = start(t, "vault", v.dir, v.path, append(args, v.more...), nil)
}

func (v *Vault) ready(ctx context.Context) error {
	_, err := get(ctx, v.Addr+"/v1/auth/token/lookup-self", "X-Vault-Token", v.Token)
	return err
}

// Stop kills the server and returns when it is gone.
func (v *Vault) Stop() { v.kill() }

// Start starts a stopped server at the same address, with the same root token
// and nothing else of what it knew: a dev server keeps its state in memory.
func (v *Vault) Start(t testing.TB) {
	t.Helper()
	v.kill()
	v.run(t)
	if err := v.until(t, v.ready); err != nil {
		t.Fatalf("start vault again: %v; its log:\n%s", err, v.Output())
	}
}

// Env returns the variables that point Vault's clients to this server.
func (v *Vault) Env() []string {
	return []string{"VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.Token}
}

// Command runs one command of the vault program against this server, as
// Command(t, "secrets", "enable", "pki"), and returns its output. A command
// that fails, fails the test.
func (v *Vault) Command(t testing.TB, args ...string) string {
	t.Helper()
	return command(t, v.dir, v.path, v.Env(), args)
}

// VaultPlugins returns the folder with the auth methods that the server lacks,
// for -dev-plugin-dir: vault-auth-aws. OUTRIDER_VAULT_PLUGINS names another one.
func VaultPlugins(t testing.TB) string {
	t.Helper()
	return binary(t, "vault-plugins", "OUTRIDER_VAULT_PLUGINS", vaultVersion)
}
