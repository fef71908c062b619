// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/internal/fakevault"
)

const (
	givenToken = "hvs.given-to-us-by-an-operator"
	roleID     = "role-id-0d4e6a40"
	secretID   = "secret-id-91f3bb02"
	testJWT    = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ3ZWIifQ.c2lnbmF0dXJl"
)

var appRole = Auth{Method: AppRoleMethod, RoleID: roleID, SecretID: secretID}

var periodic = fakevault.Lease{TTL: time.Hour, Renewable: true}

func TestGivenTokenIsRenewedAtTwoThirdsOfItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Auth{Method: TokenMethod, Token: givenToken})
		w.vault.AddToken(givenToken, periodic)
		if s := w.client.TokenStatus(); !s.LastSuccess.IsZero() || !s.Expires.IsZero() {
			t.Errorf("before the start: %+v", s)
		}
		last := time.Now()
		w.start()
		w.pass(24 * time.Hour)
		renewals := w.vault.Requests("auth/token/renew-self")
		if len(renewals) < 30 {
			t.Fatalf("%d renewals in a day of a token of one hour, want at least 30", len(renewals))
		}
		gaps := map[time.Duration]bool{}
		for _, r := range renewals {
			gap := r.At.Sub(last)
			last, gaps[gap] = r.At, true
			if gap < 36*time.Minute || gap > 40*time.Minute || r.Token != givenToken || r.Status != http.StatusOK {
				t.Errorf("renewal after %s with status %d, want 36 to 40 minutes and 200", gap, r.Status)
			}
		}
		if len(gaps) < len(renewals)/2 {
			t.Errorf("%d different gaps in %d renewals: there is no jitter", len(gaps), len(renewals))
		}
	})
}

func TestTokenWithoutAnEndIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Auth{Method: TokenMethod, Token: givenToken})
		w.vault.AddToken(givenToken, fakevault.Lease{})
		w.start()
		w.pass(100 * time.Hour)
		if n := len(w.vault.Requests("auth/")); n != 1 {
			t.Errorf("%d requests about a token that never ends, want the one look-up", n)
		}
	})
}

func TestRotatedTokenFileIsTakenUpAndABadOneChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := write(t, "", "hvs.first-token-in-file\n")
		w := newWorld(t, Auth{Method: TokenMethod, TokenFile: file})
		w.hide("hvs.first-token", "hvs.second-token", "hvs.wrong-token")
		w.vault.AddToken("hvs.first-token-in-file", periodic)
		w.start()

		write(t, file, "hvs.wrong-token-in-file")
		w.pass(10 * time.Hour)
		signed := w.signs(http.StatusOK)
		if token := signed[len(signed)-1].Token; token != "hvs.first-token-in-file" {
			t.Fatalf("signed with %q while the file holds a wrong token, want the first one", token)
		}
		if n := len(w.signs(http.StatusForbidden)); n != 0 {
			t.Errorf("%d CSRs refused: the token in hand was not kept alive", n)
		}
		contains(t, w.leaf.Status().LastError.Error(), "auth method token", "Vault answered 403", "give a new one")

		w.vault.AddToken("hvs.second-token-in-file", periodic)
		write(t, file, "hvs.second-token-in-file")
		w.pass(pollInterval)
		if _, _, problem := w.client.session(); problem != nil {
			t.Errorf("the login problem stays after a good token: %v", problem)
		}
		w.pass(time.Hour)
		signed = w.signs(http.StatusOK)
		if token := signed[len(signed)-1].Token; token != "hvs.second-token-in-file" {
			t.Errorf("signed with %q after the rotation, want the second token", token)
		}
	})
}

func TestTokenFileThatDisappearsChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := write(t, "", "hvs.first-token-in-file")
		w := newWorld(t, Auth{Method: TokenMethod, TokenFile: file})
		w.vault.AddToken("hvs.first-token-in-file", periodic)
		w.start()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		w.pass(5 * time.Hour)
		if n := len(w.leaves()); n < 5 {
			t.Errorf("%d leaves of one hour in five hours, want at least 5", n)
		}
		if n := len(w.log.lines("[WARN]", "token in hand is kept")); n == 0 {
			t.Error("nobody was told that the token file is gone")
		}
	})
}

func TestAppRoleLoginFollowsARotatedSecretID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := write(t, "", secretID+"\n")
		w := newWorld(t, Auth{Method: AppRoleMethod, RoleIDFile: write(t, "", roleID), SecretIDFile: file})
		w.hide(roleID, secretID, "secret-id-two")
		w.vault.AllowAppRole(roleID, secretID, periodic)
		w.vault.AllowAppRole(roleID, "secret-id-two", periodic)
		w.start()
		if n := len(w.leaves()); n != 1 {
			t.Fatalf("%d leaves after the start, want 1", n)
		}
		write(t, file, "secret-id-two")
		w.pass(pollInterval)
		logins := w.vault.Requests("auth/approle/login")
		if len(logins) != 2 || logins[1].Body["secret_id"] != "secret-id-two" || logins[1].Token != "" {
			t.Fatalf("logins are %v, want a second one with the new secret id and no token", logins)
		}
		w.pass(time.Hour)
		signed := w.signs(http.StatusOK)
		if token := signed[len(signed)-1].Token; token != "hvs.fake-token-number-2" {
			t.Errorf("signed with %q, want the token of the second login", token)
		}
	})
}

func TestJWTLoginSendsRoleAndTokenToItsMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Auth{Method: JWTMethod, Mount: "/jwt-nomad/", Role: "mesh", JWTFile: write(t, "", testJWT+"\n")})
		w.hide(testJWT)
		w.vault.Refuse("auth/jwt-nomad", http.StatusBadRequest, "error validating token "+testJWT+": expired")
		w.start()
		w.pass(time.Minute)
		contains(t, w.leaf.Status().LastError.Error(), "auth method jwt at auth/jwt-nomad", "error validating token [hidden]: expired", `role "mesh"`, "bound claims")
		w.vault.Refuse("auth/jwt-nomad", 0)
		w.vault.AllowJWT("jwt-nomad", "mesh", testJWT, periodic)
		w.pass(2 * time.Minute)
		if n := len(w.leaves()); n != 1 {
			t.Errorf("%d leaves, want 1", n)
		}
	})
}

func TestRefusedRenewalLeadsToANewLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, appRole)
		w.vault.AllowAppRole(roleID, secretID, periodic)
		w.leaf.pki.TTL = 24 * time.Hour // The leaf must not be the first to see it.
		w.start()
		w.vault.Revoke("")
		w.pass(45 * time.Minute)
		if n := len(w.vault.Requests("auth/approle/login")); n != 2 {
			t.Errorf("%d logins after the token was revoked, want 2", n)
		}
		contains(t, strings.Join(w.log.lines("cannot renew the Vault token"), ""), "Vault answered 403", "login=true")
	})
}

func TestNewLoginBeforeTheMaximumTTLOrTheEndOfAnUnrenewableToken(t *testing.T) {
	for name, lease := range map[string]fakevault.Lease{
		"maximum TTL":   {TTL: time.Hour, Max: 3 * time.Hour, Renewable: true},
		"not renewable": {TTL: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, appRole)
				w.vault.AllowAppRole(roleID, secretID, lease)
				w.start()
				w.pass(100 * time.Hour)
				if n := len(w.vault.Requests("auth/approle/login")); n < 25 || n > 200 {
					t.Errorf("%d logins in 100 hours, want a few per token", n)
				}
				for _, r := range w.vault.Requests("") {
					if r.Status != http.StatusOK {
						t.Fatalf("%s got %d: the token ended before there was a new one", r.Path, r.Status)
					}
				}
			})
		})
	}
}

func TestGivenTokenNearItsMaximumTTLIsAnnouncedAndLooksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Auth{Method: TokenMethod, Token: givenToken})
		w.vault.AddToken(givenToken, fakevault.Lease{TTL: time.Hour, Max: 3 * time.Hour, Renewable: true})
		w.start()
		w.pass(3 * time.Hour)
		if n := len(w.log.lines("[WARN]", "maximum TTL is near", "2000-01-01 02:59:59", "name its file with token_file")); n != 1 {
			t.Errorf("the end of the token was announced %d times, want once", n)
		}
		w.pass(time.Hour)
		if n := len(w.vault.Requests("auth/")); n > 250 {
			t.Errorf("%d requests about a token that has ended, want at most a few per minute", n)
		}
		contains(t, w.leaf.Status().LastError.Error(), "Vault answered 403")
	})
}

func TestARefusedTokenIsReplacedAndAMissingPolicyDoesNotMakeTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, appRole)
		w.vault.AllowAppRole(roleID, secretID, fakevault.Lease{TTL: 1000 * time.Hour, Renewable: true})
		w.start()
		w.pass(5 * time.Minute)
		w.vault.Revoke("")
		w.pass(time.Hour)
		if n := len(w.leaves()); n != 2 {
			t.Fatalf("%d leaves, want a second one with a new token", n)
		}
		if n := len(w.vault.Requests("auth/approle/login")); n != 2 {
			t.Fatalf("%d logins, want 2", n)
		}
		w.vault.Refuse("connect-intermediate/sign/", http.StatusForbidden, "1 error occurred:\n\t* permission denied\n\n")
		w.pass(10 * time.Hour)
		if n := len(w.vault.Requests("auth/approle/login")) - 2; n < 2 || n > 60 {
			t.Errorf("%d logins in ten hours without the policy, want a few per hour", n)
		}
		contains(t, w.leaf.Status().LastError.Error(), "grant update on connect-intermediate/sign/mesh-web to the token's policy")
		w.vault.Refuse("connect-intermediate/sign/", 0)
		w.pass(2 * time.Minute)
		if n := len(w.leaves()); n != 3 {
			t.Errorf("%d leaves after the policy was granted, want 3", n)
		}
	})
}

func TestATokenThatVaultDoesNotKnowIsReplacedWithinSecondsOfItsLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, appRole)
		w.vault.AllowAppRole(roleID, secretID, fakevault.Lease{TTL: 1000 * time.Hour, Renewable: true})
		w.run(w.client.Run)
		w.run(w.leaf.Run)
		w.pass(time.Second)
		w.vault.Revoke("")
		w.leaf.SetBundle(w.bundle) // the first use of the token
		w.pass(goneGap + time.Second)
		if n := len(w.leaves()); n != 1 {
			t.Errorf("%d leaves %s after a login whose token was revoked, want 1: %v", n, goneGap, w.leaf.Status().LastError)
		}
	})
}

func TestALeafFollowsANewTokenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, appRole)
		w.vault.AllowAppRole(roleID, secretID, periodic)
		w.start()
		w.vault.Forbid()
		w.vault.Revoke("")
		w.pass(5 * time.Hour)
		w.vault.AllowAppRole(roleID, secretID, periodic)
		w.pass(2 * time.Minute)
		logins, leaves := w.vault.Requests("auth/approle/login"), w.leaves()
		if len(leaves) != 2 {
			t.Fatalf("%d leaves, want a second one", len(leaves))
		}
		if gap := leaves[1].at.Sub(logins[len(logins)-1].At); gap > leafGap {
			t.Errorf("the leaf came %s after the login, want at most %s", gap, leafGap)
		}
	})
}

func TestALoginThatFailsIsRetriedAlthoughTheOldTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := write(t, "", secretID)
		w := newWorld(t, Auth{Method: AppRoleMethod, RoleID: roleID, SecretIDFile: file})
		w.hide(secretID, "secret-id-two")
		w.vault.AllowAppRole(roleID, secretID, periodic)
		w.start()
		if s := w.client.TokenStatus(); s.Err != nil || s.Failures != 0 || s.Expires.Sub(s.LastSuccess) != time.Hour {
			t.Errorf("after the login: %+v", s)
		}
		write(t, file, "secret-id-two") // Not known to Vault yet.
		w.pass(3 * time.Hour)
		if s := w.client.TokenStatus(); s.Err == nil || s.Failures == 0 || time.Until(s.Expires) <= 0 || time.Since(s.LastSuccess) > time.Hour {
			t.Errorf("while logins fail and the token is renewed: %+v", s)
		}
		if n := len(w.signs(http.StatusForbidden)); n != 0 {
			t.Errorf("%d CSRs refused: the old token has ended", n)
		}
		w.vault.AllowAppRole(roleID, "secret-id-two", periodic)
		w.pass(maxBackoff)
		if _, _, problem := w.client.session(); problem != nil {
			t.Errorf("the login was not retried: %v", problem)
		}
		if s := w.client.TokenStatus(); s.Err != nil || s.Failures != 0 {
			t.Errorf("after the retry: %+v", s)
		}
	})
}

func TestNoConnectionIsLeftWhenRunEnds(t *testing.T) {
	closed := make(chan struct{}, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"auth":{"client_token":"hvs.token-of-the-server","lease_duration":3600,"renewable":true}}`))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	c := clientOf(t, server.URL, TLS{})
	_, loggedIn, _ := c.session()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-loggedIn
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestFailedLoginsAreLoggedFirstAndEachTenthAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, appRole)
		w.start()
		w.pass(30 * time.Minute)
		attempts := len(w.vault.Requests("auth/approle/login"))
		if attempts < 30 {
			t.Fatalf("%d logins in half an hour, want at least 30", attempts)
		}
		if warned := len(w.log.lines("[WARN]", "cannot log in")); warned != 1+attempts/10 {
			t.Errorf("%d warnings for %d failures, want %d", warned, attempts, 1+attempts/10)
		}
		contains(t, w.leaf.Status().LastError.Error(), "check role id and secret id", "secret_id:[hidden]")
		w.vault.AllowAppRole(roleID, secretID, periodic)
		w.pass(2 * time.Minute)
		if n := len(w.log.lines("[INFO]", "lets us log in again")); n != 1 {
			t.Errorf("the recovery was logged %d times, want once", n)
		}
		if n := len(w.leaves()); n != 1 {
			t.Errorf("%d leaves after the recovery, want 1", n)
		}
	})
}

func TestTheEnvironmentReachesVaultOnlyThroughConfigFromEnv(t *testing.T) {
	home := t.TempDir()
	write(t, filepath.Join(home, ".vault-token"), "hvs.token-of-the-home-directory")
	t.Setenv("HOME", home)
	t.Setenv("VAULT_TOKEN", "hvs.token-of-the-environment")
	t.Setenv("VAULT_ADDR", "http://elsewhere.test:8200")
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	t.Setenv("VAULT_HEADERS", `{"X-Other":"1"}`)
	cfg, ok := ConfigFromEnv()
	want := Config{Address: "http://elsewhere.test:8200", Namespace: "elsewhere", Auth: Auth{Method: "token", Token: "hvs.token-of-the-environment"}}
	if !ok || !reflect.DeepEqual(cfg, want) {
		t.Errorf("ConfigFromEnv is %+v, %t", cfg, ok)
	}
	c, err := NewClient(Config{Address: "http://here.test:8200", Auth: appRole}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []interface {
		Token() string
		Namespace() string
		Address() string
		Headers() http.Header
	}{c.authed, c.login} {
		if client.Token() != "" || client.Namespace() != "" || client.Address() != "http://here.test:8200" || len(client.Headers()) != 1 {
			t.Errorf("the environment leaked: namespace %q, address %q, headers %v", client.Namespace(), client.Address(), client.Headers())
		}
	}
	t.Setenv("VAULT_ADDR", "")
	if _, ok := ConfigFromEnv(); ok {
		t.Error("ConfigFromEnv found a Vault without VAULT_ADDR")
	}
}
