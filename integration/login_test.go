// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/consul/api"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// tokenLife is the least that Consul allows as MaxTokenTTL.
const tokenLife = time.Minute

// A loginRig is a Consul whose auth method takes JWTs that the test signs.
type loginRig struct {
	consul   *realserver.Consul
	operator *api.Client
	signer   jose.Signer
}

func newLoginRig(t *testing.T) *loginRig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	r := &loginRig{consul: aclConsul(t)}
	if r.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil); err != nil {
		t.Fatal(err)
	}
	if r.operator, err = api.NewClient(&api.Config{Address: r.consul.Addr, Token: management}); err != nil {
		t.Fatal(err)
	}
	method := &api.ACLAuthMethod{Name: "workloads", Type: "jwt", MaxTokenTTL: tokenLife, Config: map[string]any{
		"JWTValidationPubKeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))},
		"JWTSupportedAlgs":     []string{"ES256"}, "BoundAudiences": []string{"consul.io"}, "ClaimMappings": map[string]string{"svc": "svc"},
	}}
	if _, _, err = r.operator.ACL().AuthMethodCreate(method, nil); err != nil {
		t.Fatal(err)
	}
	rule := &api.ACLBindingRule{AuthMethod: "workloads", BindType: "service", BindName: "${value.svc}"}
	if _, _, err = r.operator.ACL().BindingRuleCreate(rule, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs an agent that logs in as a service, with nothing of the operator
// in its environment.
func (r *loginRig) start(t *testing.T, name, stanza string) *outrider {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "nomad_consul.jwt")
	now := time.Now()
	token, err := jwt.Signed(r.signer).Claims(jwt.Claims{
		Audience: jwt.Audience{"consul.io"}, Subject: "global:default:" + name,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(now.Add(time.Hour)),
	}).Claims(map[string]any{"svc": name}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, token+"\n")
	o := &outrider{admin: filepath.Join(dir, "admin.sock")}
	path := filepath.Join(dir, "outrider.hcl")
	writeFile(t, path, fmt.Sprintf("consul {\n address = %q\n login {\n auth_method = \"workloads\"\n token_file = %q\n}\n}\nadmin { address = \"unix://%s\" }\nlog { level = \"debug\" }\n%s",
		r.consul.Addr, file, o.admin, stanza))
	o.runWith(t, []string{"PATH=" + os.Getenv("PATH")}, "agent", "-config", path)
	t.Cleanup(func() {
		if strings.Contains(o.log.String(), token) {
			t.Errorf("the JWT of %s is in its log", name)
		}
	})
	o.waitReady(t)
	return o
}

// tokens lists those that logins made and Consul still knows.
func (r *loginRig) tokens(t *testing.T) []*api.ACLTokenListEntry {
	t.Helper()
	all, _, err := r.operator.ACL().TokenListFiltered(api.ACLTokenFilterOptions{AuthMethod: "workloads"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// logins is how often a process has logged in.
func logins(o *outrider) int { return strings.Count(o.log.String(), "logged in to Consul") }

// steadily calls until the function it returns is called, which reports every
// call that failed.
func steadily(t *testing.T, port int) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	type outcome struct {
		calls int
		errs  []error
	}
	ended := make(chan outcome, 1)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		var out outcome
		for {
			select {
			case <-ctx.Done():
				ended <- out
				return
			case <-tick.C:
			}
			out.calls++
			if err := pingOnce(port); err != nil {
				out.errs = append(out.errs, fmt.Errorf("at %s: %w", time.Now().UTC().Format(time.TimeOnly), err))
			}
		}
	}()
	return func() {
		cancel()
		out := <-ended
		if len(out.errs) > 0 || out.calls == 0 {
			t.Errorf("%d of %d calls failed: %v", len(out.errs), out.calls, out.errs)
		}
	}
}

// soon bounds how long a change takes to be in force, with room for a slow
// machine.
const soon = 5 * time.Second

func TestTrafficOutlivesTheTokensOfLoginsAndNoneIsLeft(t *testing.T) {
	t.Parallel()
	r := newLoginRig(t)
	port := freePort(t)
	callee := r.start(t, "api", service{name: "api", app: app(t, "api")}.stanza(t))
	web := r.start(t, "web", service{name: "web", upstream: "api", port: port}.stanza(t))
	intend(t, r.consul, "allow", "web", "api")
	until(t, "the call goes through", func() error { return pingOnce(port) })
	first := r.tokens(t)
	finish := steadily(t, port)
	untilWithin(t, 2*tokenLife, "the first tokens are past their life and each agent has the third at least", func() error {
		all := r.tokens(t)
		if len(all) > 4 {
			t.Fatalf("%d tokens at once, want two of each agent at most", len(all))
		}
		stays := slices.ContainsFunc(all, func(now *api.ACLTokenListEntry) bool {
			return slices.ContainsFunc(first, func(then *api.ACLTokenListEntry) bool { return then.AccessorID == now.AccessorID })
		})
		if a, w := logins(callee), logins(web); a < 3 || w < 3 || stays {
			return fmt.Errorf("%d and %d logins, the first tokens are there: %t", a, w, stays)
		}
		return nil
	})
	finish()
	for _, o := range []*outrider{callee, web} {
		if log := o.log.String(); strings.Contains(log, "watch failed") || strings.Contains(log, "cannot log") {
			t.Errorf("a change of tokens was noticed:\n%s", log)
		}
	}
	intend(t, r.consul, "deny", "web", "api")
	untilWithin(t, soon, "the denial is in force", func() error { return mustFail(port) })

	// Consul publishes the health of a service with the token of its registration,
	// and the first one has long ended.
	if err := callee.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "callers learn that the sidecar of api is gone", func() error {
		healthy, _, err := r.operator.Health().Connect("api", "", true, nil)
		if err == nil && len(healthy) > 0 {
			err = fmt.Errorf("it is healthy: %s", healthy[0].Checks.AggregatedStatus())
		}
		return err
	})
	before := len(r.tokens(t))
	web.stop(t)
	if after := len(r.tokens(t)); before-after < 1 || after > 2 {
		t.Errorf("%d tokens before and %d after web has ended, want its own gone and those of the killed api alone", before, after)
	}
}

func mustFail(port int) error {
	if err := pingOnce(port); err == nil {
		return fmt.Errorf("a call goes through")
	}
	return nil
}

func TestADeletedTokenOfALoginIsReplacedAndIntentionsStayInForce(t *testing.T) {
	t.Parallel()
	r := newLoginRig(t)
	port := freePort(t)
	callee := r.start(t, "api", service{name: "api", app: app(t, "api")}.stanza(t))
	web := r.start(t, "web", service{name: "web", upstream: "api", port: port}.stanza(t))
	intend(t, r.consul, "allow", "web", "api")
	until(t, "the call goes through", func() error { return pingOnce(port) })
	// A token that is some seconds old is not taken for one that is too new.
	aged := time.After(5 * time.Second)
	finish := steadily(t, port)
	<-aged
	for _, e := range r.tokens(t) {
		r.consul.Command(t, "acl", "token", "delete", "-accessor-id", e.AccessorID)
	}
	// The sidecars learn of it with their next question, at the latest when
	// those that are open come to their end.
	untilWithin(t, 20*time.Second, "both have logged in again", func() error {
		if a, w := logins(callee), logins(web); a < 2 || w < 2 {
			return fmt.Errorf("%d and %d logins", a, w)
		}
		return nil
	})
	finish()
	for range 2 {
		intend(t, r.consul, "deny", "web", "api")
		untilWithin(t, soon, "the denial is in force", func() error { return mustFail(port) })
		intend(t, r.consul, "allow", "web", "api")
		untilWithin(t, soon, "the call goes through again", func() error { return pingOnce(port) })
	}
}

// As si_token of Nomad does when its auth method has a MaxTokenTTL.
func TestATokenFileWhoseTokenDiedIsExplainedAndAnotherOneTakenUp(t *testing.T) {
	t.Parallel()
	consul := aclConsul(t)
	port := freePort(t)
	file := filepath.Join(t.TempDir(), "si_token")
	writeFile(t, file, tokenFor(t, consul, "api")+"\n")
	callee := startWithToken(t, consul, file, service{name: "api", app: app(t, "api")}.stanza(t))
	webFile := filepath.Join(t.TempDir(), "token")
	writeFile(t, webFile, tokenFor(t, consul, "web")+"\n")
	web := startWithToken(t, consul, webFile, service{name: "web", upstream: "api", port: port}.stanza(t))
	callee.waitReady(t)
	web.waitReady(t)
	intend(t, consul, "allow", "web", "api")
	until(t, "the call goes through", func() error { return pingOnce(port) })
	finish := steadily(t, port)
	deleteTokenOf(t, consul, file)
	untilWithin(t, 2*time.Minute, "status names the token", func() error {
		for _, w := range callee.watches(t) {
			if strings.Contains(w.Key, file) && strings.Contains(w.Error, "login block") {
				return nil
			}
		}
		return fmt.Errorf("log: %s", callee.log)
	})
	if n := strings.Count(callee.log.String(), "Consul does not know the ACL token any more"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
	writeFile(t, file, tokenFor(t, consul, "api")+"\n")
	untilWithin(t, 30*time.Second, "the other token is in use", func() error {
		for _, w := range callee.watches(t) {
			if w.Error != "" {
				return fmt.Errorf("%s: %s", w.Key, w.Error)
			}
		}
		return nil
	})
	finish()
	intend(t, consul, "deny", "web", "api")
	untilWithin(t, soon, "the denial is in force", func() error { return mustFail(port) })
}

// deleteTokenOf takes the token in a file out of Consul.
func deleteTokenOf(t *testing.T, consul *realserver.Consul, file string) {
	t.Helper()
	secret, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := api.NewClient(&api.Config{Address: consul.Addr, Token: management})
	if err != nil {
		t.Fatal(err)
	}
	self, _, err := operator.ACL().TokenReadSelf(&api.QueryOptions{Token: strings.TrimSpace(string(secret))})
	if err == nil {
		_, err = operator.ACL().TokenDelete(self.AccessorID, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// watches is the part of the status about what is read from Consul.
func (o *outrider) watches(t *testing.T) []agent.WatchStatus {
	t.Helper()
	body, err := o.ask("/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatalf("status %s: %v", body, err)
	}
	return s.Watches
}
