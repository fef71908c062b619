// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A finding is one of the doctor's.
type finding struct{ Check, State, Evidence, Remedy string }

// examined runs the doctor, and returns what it found and whether it exited with 0.
func examined(t *testing.T, before []string, args ...string) (all []finding, ok bool) {
	t.Helper()
	args = append(append(before, binary, "doctor", "-json"), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOMAD_ADDR="}
	var stdout, stderr lockedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the doctor took %s", took)
	}
	var answer struct{ Findings []finding }
	if jsonErr := json.Unmarshal([]byte(stdout.String()), &answer); jsonErr != nil {
		t.Fatalf("%v: %s%s", jsonErr, stdout.String(), stderr.String())
	}
	return answer.Findings, err == nil
}

// found expects one finding of a check in a state, whose evidence has a text.
func found(t *testing.T, all []finding, check, state, evidence string) {
	t.Helper()
	for _, f := range all {
		if f.Check == check && f.State == state && strings.Contains(f.Evidence, evidence) {
			if f.Remedy == "" && (state == "fail" || state == "warn") {
				t.Errorf("no remedy: %+v", f)
			}
			return
		}
	}
	t.Errorf("no finding %s: %s with %q in %+v", check, state, evidence, all)
}

// configured writes a configuration for the doctor and returns its path.
func configured(t *testing.T, parts ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outrider.hcl")
	writeFile(t, path, strings.Join(parts, "\n"))
	return path
}

func secretIn(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	writeFile(t, path, text+"\n")
	return path
}

func TestDoctorFindsWhatIsWrongWithVaultAndChangesNothing(t *testing.T) {
	t.Parallel()
	m := newVaultMesh(t, "1h")
	admin := fmt.Sprintf("admin { address = \"unix://%s\" }", m.web.admin)
	stanza := service{name: "web", app: app(t, "web"), inbound: freePort(t), upstream: "api", port: m.port}.stanza(t)
	// A token that may read the role, besides what a sidecar may.
	policy := secretIn(t, "path \"connect-inter/sign/mesh-web\" { capabilities = [\"update\"] }\npath \"connect-inter/roles/mesh-web\" { capabilities = [\"read\"] }")
	m.vault.Command(t, "policy", "write", "doctor", policy)
	token := strings.TrimSpace(m.vault.Command(t, "token", "create", "-policy=doctor", "-period=1h", "-field=token"))
	with := func(token, role string) string {
		return fmt.Sprintf("vault {\n address = %q\n auth \"token\" {\n token_file = %q\n }\n pki {\n mount = \"connect-inter\"\n role = %q\n ttl = \"1h\"\n }\n}", m.vault.Addr, secretIn(t, token), role)
	}
	consul := fmt.Sprintf("consul { address = %q }", m.consul.Addr)
	good := configured(t, consul, admin, with(token, "mesh-${service}"), stanza)

	accessors := func() string { return m.vault.Command(t, "list", "auth/token/accessors") }
	services := func() string { return m.consul.Command(t, "catalog", "services", "-tags") }
	tokens, names, serial := accessors(), services(), m.web.serial(t)
	all, ok := examined(t, nil, "-config", good)
	if !ok {
		t.Errorf("a good mesh fails: %+v", all)
	}
	found(t, all, "Vault", "ok", "unsealed")
	found(t, all, "login to Vault", "ok", "is renewed")
	found(t, all, "issuer in Vault", "ok", "under a root that Consul trusts")
	found(t, all, "role in Vault", "ok", "which allows spiffe://"+m.trustDomain+"/ns/default/dc/dc1/svc/web")
	found(t, all, "CA of the mesh", "ok", m.trustDomain)
	found(t, all, "running agent", "ok", "serves 1 sidecars")

	m.vault.Command(t, "write", "connect-inter/roles/mesh-web", "allowed_uri_sans=spiffe://other/*", "require_cn=false", "key_type=ec", "key_bits=256")
	if all, ok = examined(t, nil, "-config", good); ok {
		t.Error("a role that does not allow the service is no failure")
	}
	found(t, all, "role in Vault", "fail", "does not allow spiffe://"+m.trustDomain)
	all, _ = examined(t, nil, "-config", configured(t, consul, admin, with(token, "mesh-none"), stanza))
	found(t, all, "role in Vault", "fail", "may not use connect-inter/sign/mesh-none")
	all, _ = examined(t, nil, "-config", configured(t, consul, admin, with(m.vault.Token, "mesh-none"), stanza))
	found(t, all, "role in Vault", "fail", "no such role")
	all, _ = examined(t, nil, "-config", configured(t, consul, admin, with("hvs.of-nobody-at-all", "mesh-${service}"), stanza))
	found(t, all, "login to Vault", "fail", "403")
	for _, f := range all {
		if strings.Contains(f.Evidence+f.Remedy, "of-nobody-at-all") || strings.Contains(f.Evidence+f.Remedy, token) {
			t.Errorf("a token is shown: %+v", f)
		}
	}
	all, _ = examined(t, nil, "-config", configured(t, consul, admin, m.block("web", "1h"), stanza))
	found(t, all, "login to Vault", "skipped", "is not tried")

	if now := accessors(); now != tokens {
		t.Errorf("tokens of Vault: %s, before: %s", now, tokens)
	}
	if now := services(); now != names {
		t.Errorf("services of Consul: %s, before: %s", now, names)
	}
	if now := m.web.serial(t); now != serial {
		t.Error("the leaf is another one")
	}
	m.vault.Command(t, "operator", "seal")
	all, _ = examined(t, nil, "-config", good)
	found(t, all, "Vault", "fail", "sealed")
}

func TestDoctorFindsAnIssuerThatConsulDoesNotTrust(t *testing.T) {
	t.Parallel()
	vault, consul := realserver.StartVault(t), realserver.StartConsul(t)
	vault.Command(t, "secrets", "enable", "-path=other", "pki")
	vault.Command(t, "write", "other/root/generate/internal", "common_name=other root", "key_type=ec", "ttl=24h")
	config := configured(t, fmt.Sprintf("consul { address = %q }\nvault {\n address = %q\n auth \"token\" {\n token_file = %q\n }\n pki {\n mount = \"other\"\n role = \"r\"\n }\n}", consul.Addr, vault.Addr, secretIn(t, vault.Token)),
		service{name: "web"}.stanza(t))
	all, ok := examined(t, nil, "-config", config)
	if ok {
		t.Error("it is no failure")
	}
	found(t, all, "issuer in Vault", "warn", "other root")
	vault.Command(t, "secrets", "disable", "other")
	vault.Command(t, "secrets", "enable", "-path=other", "-max-lease-ttl=8760h", "pki")
	vault.Command(t, "write", "other/root/generate/internal", "common_name=other root", "key_type=ec", "ttl=8760h")
	all, _ = examined(t, nil, "-config", config)
	found(t, all, "issuer in Vault", "fail", "not under a root that Consul trusts")
}

func TestDoctorFindsWhatAConsulTokenLacks(t *testing.T) {
	t.Parallel()
	consul := aclConsul(t)
	stanza := service{name: "web", upstream: "api", port: freePort(t)}.stanza(t)
	with := func(token string) string {
		return configured(t, fmt.Sprintf("consul {\n address = %q\n token_file = %q\n}", consul.Addr, secretIn(t, token)), stanza)
	}
	all, _ := examined(t, nil, "-config", with(tokenFor(t, consul, "web")))
	found(t, all, "Consul token", "ok", "service identity web")
	found(t, all, "rights of the Consul token", "ok", "has all")
	other := tokenFor(t, consul, "other")
	all, ok := examined(t, nil, "-config", with(other))
	found(t, all, "rights of the Consul token", "fail", "service:write on web, service:write on web-sidecar-proxy")
	if ok {
		t.Error("a token without rights is no failure")
	}
	all, _ = examined(t, nil, "-config", with("bbbbbbbb-0000-0000-0000-00000000dead"))
	found(t, all, "Consul token", "fail", "deleted, has expired, or is not one of this Consul")
	consul.Stop()
	all, _ = examined(t, nil, "-config", with(other))
	found(t, all, "Consul agent", "fail", "connection refused")
	found(t, all, "Consul token", "skipped", "does not answer")
}

// late is a Consul whose clock is behind by some minutes.
func late(t *testing.T, consul *realserver.Consul) string {
	t.Helper()
	target, err := url.Parse("http://" + strings.TrimPrefix(consul.Addr, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Set("Date", time.Now().Add(-5*time.Minute).UTC().Format(http.TimeFormat))
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

func TestDoctorFindsWhatIsWrongWithTheHost(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	open := secretIn(t, "any-token")
	if err := os.Chmod(open, 0o666); err != nil { //nolint:gosec // the fault that is looked for
		t.Fatal(err)
	}
	all, ok := examined(t, nil, "-config", configured(t, fmt.Sprintf("consul {\n address = %q\n token_file = %q\n}\nadmin { address = \"unix:///nowhere/admin.sock\" }", late(t, consul), open),
		service{name: "web", inbound: port}.stanza(t)))
	if ok {
		t.Error("nothing has failed")
	}
	found(t, all, "clock of Consul", "warn", "5m")
	found(t, all, "ports", "fail", fmt.Sprintf("0.0.0.0:%d of the inbound listener of web is taken by integration.tes", port))
	found(t, all, "files", "fail", "may be written by others")
	found(t, all, "application web", "warn", "nobody listens on 127.0.0.1:1")
	found(t, all, "running agent", "skipped", "/nowhere/admin.sock")
}

// A sidecar that ended without taking its rules away leaves a host that reaches
// nobody. The rules are made in a network of their own.
func TestDoctorFindsRedirectionThatASidecarHasLeft(t *testing.T) {
	t.Parallel()
	const rules = "ip link set lo up && iptables -t nat -N CONSUL_PROXY_REDIRECT && iptables -t nat -A CONSUL_PROXY_REDIRECT -p tcp -j REDIRECT --to-ports 15001 && "
	all, ok := examined(t, []string{"unshare", "--net", "sh", "-c", rules + `exec "$@"`, "sh"}, "-offline")
	if ok {
		t.Error("it is no failure")
	}
	found(t, all, "traffic redirection", "fail", "CONSUL_PROXY_REDIRECT lead traffic to port 15001")
	all, ok = examined(t, []string{"unshare", "--net", "--"}, "-offline")
	if !ok {
		t.Errorf("an empty network fails: %+v", all)
	}
	found(t, all, "traffic redirection", "ok", "no rule")
	found(t, all, "Consul agent", "skipped", "-offline")
}

// The rules are those of the CNI plugin portmap, as the system prints them.
func TestDoctorFindsAPortThatLeadsToTwoAllocations(t *testing.T) {
	t.Parallel()
	maps := func(alloc, chain string) string {
		return fmt.Sprintf(`iptables -t nat -N %[2]s && iptables -t nat -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment 'dnat name: "nomad" id: "%[1]s"' -m multiport --dports 31720,32064 -j %[2]s && `+
			`iptables -t nat -A %[2]s -p tcp --dport 32064 -j DNAT --to-destination 169.254.64.2:32064 && `, alloc, chain)
	}
	const (
		ended, living = "83b460da-3499-0866-d2f3-a57669df272c", "d98a737d-bf18-1f42-036f-e68dd9aff7bc"
		base          = "ip link set lo up && iptables -t nat -N CNI-HOSTPORT-DNAT && "
	)
	one := base + maps(living, "CNI-DN-b8e242b6d2ed5fedf7620")
	all, ok := examined(t, []string{"unshare", "--net", "sh", "-c", one + `exec "$@"`, "sh"}, "-offline")
	if !ok {
		t.Errorf("one allocation fails: %+v", all)
	}
	found(t, all, "port mappings", "ok", "1 ports lead to allocations, each to one")
	all, ok = examined(t, []string{"unshare", "--net", "sh", "-c", one + maps(ended, "CNI-DN-5c49341189770b7cb20bf") + `exec "$@"`, "sh"}, "-offline")
	if ok {
		t.Error("it is no failure")
	}
	found(t, all, "port mappings", "fail", "port 32064 (tcp) leads to allocation "+living+": allocation "+ended+" has it, too, and is reached by nobody")
}

func TestSidecarThatCannotBeSignedIsFoundByTheDoctorThatMayNotAskVault(t *testing.T) {
	t.Parallel()
	m := newVaultMesh(t, "20s")
	m.vault.Command(t, "write", "connect-inter/roles/mesh-web", "allowed_uri_sans=spiffe://other/*", "require_cn=false", "key_type=ec", "key_bits=256")
	untilWithin(t, renewal+patience, "the agent is refused a leaf", func() error {
		if m.web.status(t).Leaf.Error == "" {
			return errors.New("no error yet")
		}
		return nil
	})
	config := configured(t, fmt.Sprintf("consul { address = %q }\nadmin { address = \"unix://%s\" }", m.consul.Addr, m.web.admin), m.block("web", "20s"), service{name: "web", inbound: freePort(t)}.stanza(t))
	all, _ := examined(t, nil, "-config", config)
	for _, f := range all {
		if f.Check == "sidecar of web" && f.State != "ok" && strings.Contains(f.Evidence, "allowed_uri_sans") {
			return
		}
	}
	t.Errorf("the refusal is not found: %+v", all)
}

// Whoever has a sidecar's port instead of it, or whatever leads elsewhere, callers
// see no more than the name of a check. The sidecar itself says what the check saw,
// and so does the doctor.
func TestASidecarThatConsulDoesNotReachSaysSoAndSoDoesTheDoctor(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = app.Close() }()
	registered, listens := freePort(t), freePort(t)
	o := start(t, consul, service{name: "web", app: app.Addr(), inbound: registered, proxy: fmt.Sprintf("config { bind_port = %d }", listens)}.stanza(t))
	saw := fmt.Sprintf("dial tcp 127.0.0.1:%d: connect: connection refused", registered)
	untilWithin(t, time.Minute+patience, "the sidecar says why callers leave it out", func() error {
		for line := range strings.Lines(o.text()) {
			if strings.Contains(line, "[WARN]") && strings.Contains(line, "Consul counts this sidecar as unhealthy") {
				if !strings.Contains(line, saw) || !strings.Contains(line, `check="sidecar listens"`) {
					t.Fatalf("it says %s", line)
				}
				return nil
			}
		}
		return errors.New("nothing yet")
	})
	all, ok := examined(t, nil, "-config", configured(t, fmt.Sprintf("consul { address = %q }\nadmin { address = \"unix://%s\" }", consul.Addr, o.admin)))
	if !ok {
		t.Errorf("what may be somebody else's is no failure: %+v", all)
	}
	found(t, all, "Consul's checks of sidecars", "warn", `callers may leave out web-sidecar-proxy: check "sidecar listens" is critical: `+saw)
}
