// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/jobs"
)

type consulDouble struct {
	survey  *consul.Survey
	err     error
	refuses map[consul.Right]bool
}

func (c consulDouble) Survey(context.Context) (*consul.Survey, error) { return c.survey, c.err }

func (c consulDouble) Rights(_ context.Context, _ string, wants []consul.Right) (out []bool, err error) {
	for _, w := range wants {
		out = append(out, !c.refuses[w])
	}
	return out, nil
}

type vaultDouble struct {
	survey *vault.Survey
	err    error
}

func (v vaultDouble) Survey(context.Context, []vault.PKI) (*vault.Survey, error) {
	return v.survey, v.err
}

type nomadDouble struct {
	node *jobs.Node
	err  error
}

func (n nomadDouble) Node(context.Context) (*jobs.Node, error) { return n.node, n.err }

// A ward is a host on which everything is fine, for a case to make ill.
type ward struct {
	survey    *consul.Survey
	surveyErr error
	elsewhere map[string]error // address other than the configured: nil error answers
	node      *jobs.Node
	nodeErr   error
	expected  bool
	root      fstest.MapFS
	sockets   []nomad.Socket
	cfg       *hcl.Config
	files     []string
	offline   bool
	refuses   map[consul.Right]bool
	vault     *vault.Survey // nil with vaultErr; without both there is no Vault
	vaultErr  error
	agent     *agent.Status
	agentErr  error
	named     bool // the agent
	lookup    func(host string) ([]string, error)
	chains    string
	chainsErr error
	now       time.Time
}

func healthy() *ward {
	now := time.Date(2026, 11, 21, 11, 0, 0, 0, time.UTC)
	attributes := map[string]string{
		"consul.version": "1.22.3", "consul.connect": "true", "consul.grpc": "8502", "nomad.bridge.hairpin_mode": "false", "unique.network.ip-address": "10.0.0.7",
		"plugins.cni.version.bridge": "1.9.0", "plugins.cni.version.firewall": "1.9.0", "plugins.cni.version.host-local": "1.9.0",
		"plugins.cni.version.loopback": "1.9.0", "plugins.cni.version.portmap": "1.9.0", "plugins.cni.version.consul-cni": "1.9.8",
	}
	program := &fstest.MapFile{Mode: 0o755}
	one := &fstest.MapFile{Data: []byte("1\n")}
	return &ward{
		survey: &consul.Survey{Address: "http://127.0.0.1:8500", Leader: "10.0.0.1:8300", Date: now, Version: "1.22.3", Roots: 1, Token: &consul.TokenSurvey{Accessor: "acc", Grants: []string{"policy p"}}},
		node: &jobs.Node{
			Address: "http://127.0.0.1:4646", Port: 4646, Version: "1.11.3", ID: "id", Name: "n1", Status: "ready", Eligible: true, ConsulAddress: "10.0.0.7:8500",
			CNIPath: "/opt/cni/bin", Attributes: attributes, Drivers: map[string]jobs.Driver{"raw_exec": {Detected: true, Healthy: true}, "java": {Detected: true, Healthy: true}},
		},
		elsewhere: map[string]error{"10.0.0.7:8500": nil},
		root: fstest.MapFS{
			"proc/net/tcp":         {Data: []byte("  sl  local_address rem_address   st\n   0: 00000000:1226 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0\n   1: 0100007F:1226 0100007F:9999 01 0:0 0:0 0 0 0 7 1\n")},
			"proc/7/fd/3":          {Data: []byte("socket:[7]"), Mode: fs.ModeSymlink},
			"proc/52/fd/9":         {Data: []byte("socket:[4242]"), Mode: fs.ModeSymlink},
			"proc/52/environ":      {Data: []byte("NOMAD_TOKEN=secret\x00PATH=/sbin:relative:/usr/local/bin\x00")},
			"sbin/iptables":        program,
			"usr/local/bin/consul": program, "usr/local/bin/outrider": program,
			"proc/sys/net/ipv4/ip_forward": one, "proc/sys/net/bridge/bridge-nf-call-iptables": one,
			"proc/self/limits": {Data: []byte("Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n")},
			"proc/meminfo":     {Data: []byte("MemTotal:        8000000 kB\n")},
			"proc/sys/net/bridge/bridge-nf-call-ip6tables": one, "proc/sys/net/bridge/bridge-nf-call-arptables": one,
		},
		cfg: &hcl.Config{
			Consul: hcl.Consul{Address: "127.0.0.1:8500"},
			Vault:  &hcl.Vault{Address: "https://127.0.0.1:8200", Auth: hcl.Auth{Method: "token", Token: "t"}},
		},
		vault:    &vault.Survey{Address: "https://127.0.0.1:8200", Version: "1.21.0", Date: now, Initialized: true, Token: &vault.TokenSurvey{TTL: time.Hour, Renewable: true}},
		agentErr: errors.New("no agent runs"),
		lookup:   func(string) ([]string, error) { return []string{"10.0.0.9"}, nil },
		now:      now,
	}
}

func (w *ward) examine(t *testing.T) []Finding {
	t.Helper()
	o := Options{
		Config: w.cfg, Files: w.files, Offline: w.offline,
		Agent:         func(context.Context) (*agent.Status, error) { return w.agent, w.agentErr },
		AgentExpected: w.named,
		LookupHost:    func(_ context.Context, host string) ([]string, error) { return w.lookup(host) },
		Chains:        func(context.Context) (string, error) { return w.chains, w.chainsErr },
		Consul: func(address string) (Consul, error) {
			if address == "" {
				return consulDouble{w.survey, w.surveyErr, w.refuses}, nil
			}
			err, answers := w.elsewhere[address]
			if !answers {
				err = errors.New("connection refused")
			}
			return consulDouble{&consul.Survey{}, err, nil}, nil
		},
		Nomad: nomadDouble{w.node, w.nodeErr}, NomadExpected: w.expected,
		Root: w.root, Sockets: w.sockets, Now: func() time.Time { return w.now },
	}
	if w.cfg.Vault != nil {
		o.Vault = func() (Vault, error) { return vaultDouble{w.vault, w.vaultErr}, nil }
	}
	return Examine(t.Context(), o)
}

func TestHealthyHostHasNothingToDo(t *testing.T) {
	t.Parallel()
	want := []Finding{
		{"Consul agent", OK, "http://127.0.0.1:8500 answers, version 1.22.3", ""},
		{"Consul token", OK, "valid, accessor acc, policy p", ""},
		{"Consul service mesh", OK, "the CA of the mesh answers, number of roots: 1", ""},
		{"Consul's checks of sidecars", OK, "none fails", ""},
		{"rights of the Consul token", Skipped, "no service is configured, so none is needed", ""},
		{"Vault", OK, "https://127.0.0.1:8200 answers, version 1.21.0, unsealed", ""},
		{"login to Vault", OK, "the token is valid for 1h0m0s and is renewed", ""},
		{"Nomad agent", OK, "http://127.0.0.1:4646 answers, version 1.11.3; node n1 is ready", ""},
		{"Consul in Nomad's eyes", OK, "Nomad has found Consul 1.22.3 with the service mesh on and gRPC on port 8502", ""},
		{"bridge networking", OK, "the kernel has bridges, and the CNI plugins are there, bridge in version 1.9.0", ""},
		{"task drivers", OK, "raw_exec", ""},
		{"Consul from a bridged group", OK, "10.0.0.7:8500, Nomad's own address of Consul, is not a loopback: every driver reaches it", ""},
		{"consul on Nomad's PATH", OK, "/usr/local/bin/consul", ""},
		{"outrider on Nomad's PATH", OK, "/usr/local/bin/outrider", ""},
		{"iptables on Nomad's PATH", OK, "/sbin/iptables", ""},
		{"kernel settings", OK, "packets are forwarded, and iptables sees those of bridges", ""},
		{"transparent_proxy", OK, "the CNI plugin consul-cni is there, in version 1.9.8", ""},
		{"clock of Consul", OK, "it is 0s apart from the clock of this host", ""},
		{"clock of Vault", OK, "it is 0s apart from the clock of this host", ""},
		{"running agent", Skipped, "no agent runs", ""},
		{"traffic redirection", OK, "no rule of this network redirects traffic to a sidecar", ""},
		{"open files", OK, "this process may have 524288, enough for 262044 connections at once", ""},
		{"memory", OK, "no cgroup limits this process; this machine has 7812 MB", ""},
	}
	got := healthy().examine(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if Failed(got) {
		t.Error("a host that is fine has failed")
	}
}

func TestEachIllnessHasOneFinding(t *testing.T) {
	t.Parallel()
	without := func(name string) func(*ward) {
		return func(w *ward) { delete(w.node.Attributes, name) }
	}
	for name, tc := range map[string]struct {
		ill      func(*ward)
		check    string
		state    State
		evidence string
		remedy   string
	}{
		"no Consul":  {func(w *ward) { w.survey, w.surveyErr = nil, errors.New("connection refused") }, "Consul agent", Fail, "connection refused", "CONSUL_HTTP_ADDR"},
		"no leader":  {func(w *ward) { w.survey.Leader = "" }, "Consul agent", Fail, "no leader", "log of the Consul agent"},
		"dead token": {func(w *ward) { w.survey.Token, w.survey.TokenErr = nil, errors.New("ACL not found") }, "Consul token", Fail, "ACL not found", "CONSUL_HTTP_TOKEN_FILE"},
		"no token":   {func(w *ward) { w.survey.Token = nil }, "Consul token", Skipped, "anonymous", ""},
		"no ACLs":    {func(w *ward) { w.survey.Token.Disabled = true }, "Consul token", OK, "no ACLs", ""},
		"no mesh":    {func(w *ward) { w.survey.RootsErr = errors.New("Connect must be enabled") }, "Consul service mesh", Fail, "Connect must be enabled", "connect { enabled = true }"},
		"a sidecar that Consul does not reach": {func(w *ward) {
			w.survey.Failing = []consul.FailingCheck{
				{ServiceID: "web", Name: "not a sidecar", Status: "critical"},
				{ServiceID: "web-sidecar-proxy", Name: "Connect Sidecar Listening", Status: "critical", Output: "dial tcp 10.0.0.7:21000: connect: connection refused"},
			}
		}, "Consul's checks of sidecars", Warn, `callers may leave out web-sidecar-proxy: check "Connect Sidecar Listening" is critical: dial tcp 10.0.0.7:21000: connect: connection refused`, "who else has its port"},
		"a sidecar with another name whose application is ill": {func(w *ward) {
			w.agent, w.agentErr = &agent.Status{Sidecars: []agent.SidecarStatus{{Service: "web", ProxyID: "front", Ready: true}}}, nil
			w.survey.Failing = []consul.FailingCheck{{ServiceID: "front", Name: "alias", Status: "critical", Output: `Aliased check "up" failing: HTTP GET http://10.0.0.7:8080/: 500`}}
		}, "Consul's checks of sidecars", Warn, "leave out front", "mend what the check looks at"},
		"a host in maintenance": {func(w *ward) {
			w.survey.Failing = []consul.FailingCheck{{Name: "Node Maintenance Mode", Status: "critical"}}
		}, "Consul's checks of sidecars", Warn, `leave out the whole host: check "Node Maintenance Mode" is critical`, "mend what the check looks at"},
		"checks that the token may not see": {func(w *ward) { w.survey.FailingErr = errors.New("Permission denied") }, "Consul's checks of sidecars", Skipped, "Permission denied", ""},
		"a down node":                       {func(w *ward) { w.node.Status = "down" }, "Nomad agent", Fail, "n1 is down", "log of the Nomad agent"},
		"ineligible":                        {func(w *ward) { w.node.Eligible = false }, "Nomad agent", Warn, "no new allocations", "eligibility -enable"},
		"Nomad blind":                       {without("consul.version"), "Consul in Nomad's eyes", Fail, "found no Consul", "consul { address token }"},
		"Connect off":                       {without("consul.connect"), "Consul in Nomad's eyes", Fail, "service mesh off", "connect { enabled = true }"},
		"gRPC off":                          {func(w *ward) { w.node.Attributes["consul.grpc"] = "-1" }, "Consul in Nomad's eyes", Fail, "without a gRPC port", "grpc = 8502"},
		"CNI missing":                       {without("plugins.cni.version.portmap"), "bridge networking", Fail, "in /opt/cni/bin: portmap", "reference CNI plugins"},
		"no bridge":                         {without("nomad.bridge.hairpin_mode"), "bridge networking", Fail, "bridge module", "modprobe bridge"},
		"no driver": {func(w *ward) {
			w.node.Drivers = map[string]jobs.Driver{"exec": {Detected: true, Description: "no cgroups"}}
		}, "task drivers", Fail, "exec: no cgroups", "raw_exec"},
		"raw_exec off":  {func(w *ward) { w.node.Drivers = map[string]jobs.Driver{"exec": {Detected: true, Healthy: true}} }, "task drivers", OK, "raw_exec is off", ""},
		"no hook":       {func(w *ward) { delete(w.root, "usr/local/bin/consul") }, "consul on Nomad's PATH", Fail, "/sbin:relative:/usr/local/bin", "exits with 0"},
		"not runnable":  {func(w *ward) { w.root["usr/local/bin/consul"] = &fstest.MapFile{Mode: 0o644} }, "consul on Nomad's PATH", Fail, "no consul", "install the consul program"},
		"not installed": {func(w *ward) { delete(w.root, "usr/local/bin/outrider") }, "outrider on Nomad's PATH", Warn, "no outrider", "full path"},
		"no iptables":   {func(w *ward) { delete(w.root, "sbin/iptables") }, "iptables on Nomad's PATH", Fail, "no iptables", "install iptables"},
		"no PATH":       {func(w *ward) { w.root["proc/52/environ"] = &fstest.MapFile{} }, "consul on Nomad's PATH", Skipped, "process 52, has no PATH", ""},
		"hidden agent":  {func(w *ward) { delete(w.root, "proc/52/fd/9") }, "consul on Nomad's PATH", Skipped, "another namespace", ""},
		"remote agent":  {func(w *ward) { delete(w.root, "proc/net/tcp") }, "consul on Nomad's PATH", Skipped, "nobody listens on port 4646", ""},
		"no forwarding": {func(w *ward) { w.root["proc/sys/net/ipv4/ip_forward"] = &fstest.MapFile{Data: []byte("0\n")} }, "kernel settings", Warn, "ip_forward is 0", "sysctl -w"},
		"no filter":     {func(w *ward) { delete(w.root, "proc/sys/net/bridge/bridge-nf-call-iptables") }, "kernel settings", Warn, "br_netfilter is not loaded", "modprobe br_netfilter"},
		"filter off": {func(w *ward) {
			w.root["proc/sys/net/bridge/bridge-nf-call-ip6tables"] = &fstest.MapFile{Data: []byte("0\n")}
		}, "kernel settings", Warn, "bridge-nf-call-ip6tables is 0", "sysctl -w"},
		"no consul-cni":  {without("plugins.cni.version.consul-cni"), "transparent_proxy", Skipped, "not found the CNI plugin consul-cni", ""},
		"Consul's skew":  {func(w *ward) { w.survey.Date = w.now.Add(-time.Minute) }, "clock of Consul", Warn, "1m0s apart", "chrony"},
		"Vault's skew":   {func(w *ward) { w.vault.Date = w.now.Add(31 * time.Second) }, "clock of Vault", Warn, "31s apart", "chrony"},
		"no Vault":       {func(w *ward) { w.cfg.Vault = nil }, "clock of Vault", Skipped, "no Vault is configured", ""},
		"Vault is mute":  {func(w *ward) { w.vault.Date = time.Time{} }, "clock of Vault", Skipped, "not told its time", ""},
		"Vault is gone":  {func(w *ward) { w.vault, w.vaultErr = nil, errors.New("unknown authority") }, "Vault", Fail, "unknown authority", "vault.tls"},
		"Vault is new":   {func(w *ward) { w.vault.Initialized = false }, "Vault", Fail, "not initialized", "operator init"},
		"Vault sealed":   {func(w *ward) { w.vault.Sealed = true }, "Vault", Fail, "sealed", "operator unseal"},
		"Vault token":    {func(w *ward) { w.vault.Token, w.vault.TokenErr = nil, errors.New("permission denied") }, "login to Vault", Fail, "permission denied", "another auth method"},
		"no credentials": {func(w *ward) { w.vault.CredentialsErr = errors.New("no such file") }, "login to Vault", Fail, "no such file", "readable"},
		"fixed token":    {func(w *ward) { w.vault.Token.Renewable = false }, "login to Vault", Warn, "cannot be renewed", "periodic"},
		"root token":     {func(w *ward) { w.vault.Token.TTL = 0 }, "login to Vault", OK, "never ends", ""},
		"other method":   {func(w *ward) { w.cfg.Vault.Auth.Method = "approle" }, "login to Vault", Skipped, "use up", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := healthy()
			w.node.Attributes = maps.Clone(w.node.Attributes)
			tc.ill(w)
			found := w.examine(t)
			for _, f := range found {
				if f.Check != tc.check {
					continue
				}
				if f.State != tc.state || !strings.Contains(f.Evidence, tc.evidence) || !strings.Contains(f.Remedy, tc.remedy) || (f.Remedy == "") != (tc.remedy == "") {
					t.Errorf("finding %+v", f)
				}
				if Failed(found) != (tc.state == Fail) {
					t.Errorf("failed: %t", Failed(found))
				}
				return
			}
			t.Errorf("no finding for %q in %+v", tc.check, found)
		})
	}
}

func TestWayOutOfABridgedGroupIsJudged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		own       string
		sockets   []nomad.Socket
		elsewhere map[string]error
		survey    string
		state     State
		evidence  string
		remedy    string
	}{
		"Nomad's address answers":        {"10.0.0.7:8500", nil, map[string]error{"10.0.0.7:8500": nil}, "", OK, "every driver", ""},
		"Nomad's address is dead":        {"10.0.0.7:8500", nil, nil, "", Fail, "connection refused", "correct consul.address"},
		"a socket that is trusted":       {"127.0.0.1:8500", []nomad.Socket{{Path: "/run/consul/http.sock"}}, nil, "", OK, "/run/consul/http.sock", ""},
		"a socket that is not":           {"127.0.0.1:8500", []nomad.Socket{{Path: "/s", Err: errors.New("/s belongs to nobody")}}, nil, "", Warn, "/s belongs to nobody", "client_addr"},
		"Consul listens, Nomad is quiet": {"127.0.0.1:8500", nil, map[string]error{"10.0.0.7:8500": nil}, "", Warn, "only raw_exec as root", `address = "10.0.0.7:8500"`},
		"with TLS":                       {"127.0.0.1:8501", nil, map[string]error{"https://10.0.0.7:8501": nil}, "https://127.0.0.1:8501", Warn, "only raw_exec as root", "10.0.0.7:8501"},
		"loopback only":                  {"127.0.0.1:8500", nil, nil, "", Warn, "loopback of the host only", `client_addr = "127.0.0.1 10.0.0.7"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := healthy()
			w.node.ConsulAddress, w.sockets, w.elsewhere = tc.own, tc.sockets, tc.elsewhere
			if tc.survey != "" {
				w.survey.Address = tc.survey
			}
			for _, f := range w.examine(t) {
				if f.Check != "Consul from a bridged group" {
					continue
				}
				if f.State != tc.state || !strings.Contains(f.Evidence, tc.evidence) || !strings.Contains(f.Remedy, tc.remedy) {
					t.Errorf("finding %+v", f)
				}
				return
			}
			t.Error("no finding")
		})
	}
}

func TestHostWithoutNomadIsFineUnlessOneWasNamed(t *testing.T) {
	t.Parallel()
	for _, expected := range []bool{false, true} {
		w := healthy()
		w.node, w.nodeErr, w.expected = nil, errors.New("connection refused"), expected
		found := w.examine(t)
		if Failed(found) != expected || len(found) != 14 {
			t.Errorf("expected %t: %+v", expected, found)
		}
	}
}

func TestNoFindingShowsTheEnvironmentOfNomad(t *testing.T) {
	t.Parallel()
	w := healthy()
	delete(w.root, "usr/local/bin/consul")
	for _, f := range w.examine(t) {
		if strings.Contains(f.Evidence+f.Remedy, "secret") {
			t.Errorf("finding %+v", f)
		}
	}
}
