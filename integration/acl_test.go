// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

const management = "aaaaaaaa-0000-0000-0000-000000000001"

// aclConsul denies whatever a token does not allow.
func aclConsul(t *testing.T, more ...realserver.Option) *realserver.Consul {
	t.Helper()
	return realserver.StartConsul(t, append(more, realserver.Token(management), realserver.HCL(fmt.Sprintf(`acl {
		enabled        = true
		default_policy = "deny"
		tokens {
			initial_management = %q
			agent              = %q
		}
	}`, management, management)))...)
}

// tokenFor makes the token that Consul's documentation gives a service: its
// service identity, and nothing else.
func tokenFor(t *testing.T, consul *realserver.Consul, name string) string {
	t.Helper()
	var token struct{ SecretID string }
	out := consul.Command(t, "acl", "token", "create", "-format=json", "-service-identity="+name)
	if err := json.Unmarshal([]byte(out), &token); err != nil || token.SecretID == "" {
		t.Fatalf("token for %s: %v: %s", name, err, out)
	}
	return token.SecretID
}

// startWithToken is start with a token file instead of an open Consul.
func startWithToken(t *testing.T, consul *realserver.Consul, tokenFile, stanza string) *outrider {
	t.Helper()
	dir := t.TempDir()
	o := &outrider{admin: filepath.Join(dir, "admin.sock")}
	path := filepath.Join(dir, "outrider.hcl")
	writeFile(t, path, fmt.Sprintf("consul {\n address = %q\n token_file = %q\n}\nadmin { address = \"unix://%s\" }\nlog { level = \"debug\" }\n%s", consul.Addr, tokenFile, o.admin, stanza))
	// The environment of the tests holds the management token; it must not help.
	o.runWith(t, []string{"PATH=" + os.Getenv("PATH")}, "agent", "-config", path)
	return o
}

func TestServiceIdentityTokensSuffice(t *testing.T) {
	t.Parallel()
	consul := aclConsul(t)
	port := freePort(t)
	secrets := map[string]string{}
	files := map[string]string{}
	for _, name := range []string{"web", "api"} {
		secrets[name] = tokenFor(t, consul, name)
		files[name] = filepath.Join(t.TempDir(), "token")
		writeFile(t, files[name], secrets[name]+"\n")
	}
	api := startWithToken(t, consul, files["api"], service{name: "api", app: app(t, "api")}.stanza(t))
	web := startWithToken(t, consul, files["web"], service{name: "web", upstream: "api", port: port}.stanza(t))
	api.waitReady(t)
	web.waitReady(t)
	web.usableEndpoints(t, 1)
	if c, err := dial(port); err == nil {
		_ = c.Close()
		t.Error("a call went through although ACLs deny by default")
	}
	intend(t, consul, "allow", "web", "api")
	until(t, "the call goes through", func() error { return pingOnce(port) })
	for _, o := range []*outrider{web, api} {
		for name, secret := range secrets {
			if strings.Contains(o.log.String(), secret) {
				t.Errorf("the token of %s is in a log", name)
			}
		}
	}
	if api.refused(t, connect.IntentionDenied) == 0 {
		t.Error("the first call was not denied by intentions")
	}
}

// A token that is no good is the commonest mistake: it must be named, nothing
// may be served, and a good one in the same file must do without a restart.
func TestBadTokenIsExplainedAndAGoodOneInItsPlaceSuffices(t *testing.T) {
	t.Parallel()
	consul := aclConsul(t)
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, "bbbbbbbb-0000-0000-0000-00000000dead\n")
	stanza := service{name: "api", app: app(t, "api")}.stanza(t)
	api := startWithToken(t, consul, file, stanza)
	until(t, "the log names the token", func() error {
		if log := api.log.String(); !strings.Contains(log, "403") || !strings.Contains(log, "token") {
			return fmt.Errorf("log: %s", log)
		}
		return nil
	})
	if body, err := api.ask("/ready"); err == nil {
		t.Errorf("ready without a token that is good: %s", body)
	}
	writeFile(t, file, tokenFor(t, consul, "api")+"\n")
	api.waitReady(t)
}
