// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/connect/proxy"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// serving is a healthy host with the service web, which calls api, with its agent
// and its leaves from Vault.
func serving() *ward {
	w := healthy()
	ca := meshca.New("the root")
	w.now = ca.Cert.NotBefore.Add(time.Hour)
	w.survey.Date, w.vault.Date = w.now, w.now
	w.survey.Bundle, w.survey.Datacenter = meshca.Bundle(ca), "dc1"
	w.survey.Bundle.Roots[0].Name = "the root"
	side := &hcl.SidecarService{Port: 21000}
	side.Proxy.LocalServiceAddress = "127.0.0.1"
	side.Proxy.Upstreams = []hcl.Upstream{{DestinationName: "api", DestinationType: "service", LocalBindAddress: "127.0.0.1", LocalBindPort: 9191}}
	w.cfg.Services = []hcl.Service{{ID: "web", Name: "web", Port: 8080, Connect: hcl.Connect{SidecarService: side}}}
	w.cfg.Vault.PKI = hcl.PKI{Mount: "pki", Role: "mesh-${service}", TTL: 24 * time.Hour}
	w.vault.PKIs = []vault.PKISurvey{{
		PKI: vault.PKI{Mount: "pki", Role: "mesh-web", TTL: 24 * time.Hour}, Chain: []*x509.Certificate{ca.Cert}, MaySign: true,
		Role: &vault.RoleSurvey{URIs: []string{meshca.ID("web").String()}, KeyType: "ec"},
	}}
	w.agentErr = nil
	w.agent = &agent.Status{Version: "outrider 1", Sidecars: []agent.SidecarStatus{{
		Service: "web", Ready: true, Leaf: &agent.LeafStatus{Identity: meshca.ID("web").String(), NotBefore: w.now.Add(-time.Minute), NotAfter: w.now.Add(time.Hour)},
		Proxy: proxy.Status{Upstreams: []proxy.UpstreamStatus{{ID: "api", Targets: []proxy.TargetStatus{{Endpoints: []proxy.EndpointStatus{{Address: "a"}}}}}}},
	}}}
	w.listen("00000000:5208", 1, "outrider") // 21000
	w.listen("0100007F:23E7", 2, "outrider") // 9191
	w.listen("0100007F:1F90", 3, "app")      // 8080
	return w
}

// listen makes a process listen on an address as the kernel writes it.
func (w *ward) listen(address string, n int, program string) {
	line := fmt.Sprintf(" %d: %s 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 90%d 1 0\n", n, address, n)
	before := &fstest.MapFile{Data: []byte("head\n")}
	if now := w.root["proc/net/tcp"]; now != nil {
		before = now
	}
	w.root["proc/net/tcp"] = &fstest.MapFile{Data: append(append([]byte{}, before.Data...), line...)}
	w.root[fmt.Sprintf("proc/80%d/fd/4", n)] = &fstest.MapFile{Data: fmt.Appendf(nil, "socket:[90%d]", n), Mode: fs.ModeSymlink}
	w.root[fmt.Sprintf("proc/80%d/comm", n)] = &fstest.MapFile{Data: []byte(program + "\n")}
}

func (w *ward) caEnd() time.Time { return w.survey.Bundle.Roots[0].Certificates[0].NotAfter }

func (w *ward) leaf() *agent.LeafStatus { return w.agent.Sidecars[0].Leaf }

func (w *ward) upstream() *proxy.UpstreamStatus { return &w.agent.Sidecars[0].Proxy.Upstreams[0] }

func TestHostThatServesHasNothingToDo(t *testing.T) {
	t.Parallel()
	w := serving()
	for _, f := range w.examine(t) {
		if f.State != OK && f.State != Skipped {
			t.Errorf("finding %+v", f)
		}
	}
	for check, evidence := range map[string]string{
		"rights of the Consul token": "all 5", "CA of the mesh": `root "the root" is active`, "issuer in Vault": "is under a root that Consul trusts",
		"role in Vault": "which allows " + meshca.ID("web").String(), "running agent": "serves 1 sidecars", "ports": "of 2 ports, an agent has 2",
	} {
		if f := w.finding(t, check); f.State != OK || !strings.Contains(f.Evidence, evidence) {
			t.Errorf("finding %+v", f)
		}
	}
}

func jwt(claims string) *fstest.MapFile {
	return &fstest.MapFile{Mode: 0o600, Data: []byte("e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig\n")}
}

func TestEachFaultOfAServiceHasItsFinding(t *testing.T) {
	t.Parallel()
	otherCA := meshca.New("other")
	for name, tc := range map[string]struct {
		ill              func(*ward)
		check            string
		state            State
		evidence, remedy string
	}{
		"service right": {func(w *ward) {
			w.refuses = map[consul.Right]bool{{Resource: "service", Access: "write", Name: "web-sidecar-proxy"}: true}
		}, "rights of the Consul token", Fail, "lacks service:write on web-sidecar-proxy", `service "web-sidecar-proxy" { policy = "write" }`},
		"node right": {func(w *ward) {
			w.refuses = map[consul.Right]bool{{Resource: "node", Access: "read", Name: "any-node"}: true}
		}, "rights of the Consul token", Fail, "node:read", `node_prefix ""`},
		"token of the service": {func(w *ward) {
			w.cfg.Services[0].Token = "s"
			w.refuses = map[consul.Right]bool{{Resource: "service", Access: "write", Name: "web"}: true}
		}, "rights of the Consul token", Fail, "the token of service web lacks service:write on web", "service-identity"},
		"login":          {func(w *ward) { w.survey.Token = nil; w.cfg.Consul.Login = &hcl.Login{AuthMethod: "m"} }, "Consul token", Skipped, "auth method m", ""},
		"root expired":   {func(w *ward) { w.now = w.caEnd().Add(time.Hour) }, "CA of the mesh", Fail, "expired at", "rotate the CA"},
		"root ends":      {func(w *ward) { w.now = w.caEnd().Add(-time.Hour) }, "CA of the mesh", Warn, "expires at", "rotate the CA"},
		"root tomorrow":  {func(w *ward) { w.now = w.now.Add(-3 * time.Hour) }, "CA of the mesh", Fail, "in the future", "clock"},
		"none active":    {func(w *ward) { w.survey.Bundle.Roots[0].Active = false }, "CA of the mesh", Warn, "none of 1 roots", "log"},
		"other issuer":   {func(w *ward) { w.vault.PKIs[0].Chain = []*x509.Certificate{otherCA.Cert} }, "issuer in Vault", Fail, "not under a root that Consul trusts", "ca_provider"},
		"no issuer":      {func(w *ward) { w.vault.PKIs[0].ChainErr = errors.New("no handler") }, "issuer in Vault", Fail, "no handler", "vault.pki.mount"},
		"roots unknown":  {func(w *ward) { w.survey.Bundle = nil }, "issuer in Vault", Skipped, "not compared", ""},
		"issuer ends":    {func(w *ward) { w.vault.PKIs[0].PKI.TTL = 20 * 365 * 24 * time.Hour }, "issuer in Vault", Warn, "before a leaf", "renew"},
		"no capability":  {func(w *ward) { w.vault.PKIs[0].MaySign = false }, "role in Vault", Fail, "may not use pki/sign/mesh-web", `capabilities = ["update"]`},
		"wrong URI":      {func(w *ward) { w.vault.PKIs[0].Role.URIs = []string{"spiffe://x/*"} }, "role in Vault", Fail, "does not allow spiffe://", "allowed_uri_sans="},
		"common name":    {func(w *ward) { w.vault.PKIs[0].Role.RequireCN = true }, "role in Vault", Fail, "common name", "require_cn=false"},
		"RSA":            {func(w *ward) { w.vault.PKIs[0].Role.KeyType = "rsa" }, "role in Vault", Fail, "keys of type rsa", "key_type=ec"},
		"no role":        {func(w *ward) { w.vault.PKIs[0].RoleErr = errors.New("no such role") }, "role in Vault", Fail, "no such role", "create"},
		"slow Vault":     {func(w *ward) { w.vault.PKIs[0].RoleErr = fmt.Errorf("read: %w", context.DeadlineExceeded) }, "role in Vault", Skipped, "within 3s", ""},
		"slow mount":     {func(w *ward) { w.vault.PKIs[0].ChainErr = fmt.Errorf("read: %w", context.DeadlineExceeded) }, "issuer in Vault", Skipped, "within 3s", ""},
		"role hidden":    {func(w *ward) { w.vault.PKIs[0].Role = nil }, "role in Vault", OK, "as it should be", ""},
		"no Vault token": {func(w *ward) { w.vault.Token = nil; w.cfg.Vault.Auth.Method = "jwt" }, "role in Vault", Skipped, "running agent says", ""},

		"draining":     {func(w *ward) { w.agent.Draining = true }, "running agent", Warn, "draining", "wait"},
		"agent named":  {func(w *ward) { w.agent, w.agentErr, w.named = nil, errors.New("refused"), true }, "running agent", Fail, "refused", "systemctl"},
		"not ready":    {func(w *ward) { w.agent.Sidecars[0].Ready, w.agent.Sidecars[0].Missing = false, []string{"the leaf"} }, "sidecar of web", Fail, "waits for the leaf", "log"},
		"problem":      {func(w *ward) { w.agent.Sidecars[0].Proxy.Inbound.Problem = "port taken" }, "sidecar of web", Fail, "port taken", "correct"},
		"leaf expired": {func(w *ward) { w.leaf().NotAfter = w.now.Add(-time.Minute); w.leaf().Error = "Vault is sealed" }, "sidecar of web", Fail, "Vault is sealed", "renewed"},
		"leaf not yet": {func(w *ward) { w.leaf().NotBefore = w.now.Add(time.Minute) }, "sidecar of web", Fail, "in 1m0s by the clock", "chrony"},
		"leaf stuck":   {func(w *ward) { w.leaf().Error = "role does not allow" }, "sidecar of web", Warn, "role does not allow", "what to do"},
		"no endpoint":  {func(w *ward) { w.upstream().Targets[0].Endpoints[0].NotUsed = "critical" }, "sidecar of web", Warn, "no endpoint that is used, of 1", "status"},
		"no listener":  {func(w *ward) { w.upstream().Problem = "bind: in use" }, "sidecar of web", Fail, "bind: in use", "correct"},
		"watch": {func(w *ward) {
			w.agent.Watches = []agent.WatchStatus{{Key: "roots", Failures: 3, Error: "403", LastSuccess: w.now}}
		}, "watches of the agent", Warn, "roots has failed 3 times", "status"},
		"watch that never worked": {func(w *ward) { w.agent.Watches = []agent.WatchStatus{{Key: "roots", Failures: 3, Error: "403"}} }, "watches of the agent", Fail, "never succeeded", "status"},

		"name":        {func(w *ward) { w.cfg.Vault.Address = "https://vault.service.consul:8200"; w.lookup = noSuchHost }, "names", Fail, "vault.service.consul of Vault", "8600"},
		"other name":  {func(w *ward) { w.cfg.Consul.Address = "consul.example:8500"; w.lookup = noSuchHost }, "names", Fail, "consul.example of Consul", "resolver"},
		"good name":   {func(w *ward) { w.cfg.Vault.Address = "https://vault.example" }, "names", OK, "is 10.0.0.9", ""},
		"no token":    {func(w *ward) { w.cfg.Consul.TokenFile = "/etc/t" }, "files", Fail, "/etc/t is not there", "put it there"},
		"open token":  {func(w *ward) { w.file("etc/t", 0o644); w.cfg.Consul.TokenFile = "/etc/t" }, "files", Warn, "read by every user", "chmod o= /etc/t"},
		"loose token": {func(w *ward) { w.file("etc/t", 0o660); w.cfg.Consul.TokenFile = "/etc/t" }, "files", Fail, "written by others", "chmod go-w"},
		"open folder": {func(w *ward) {
			w.file("etc/t", 0o600)
			w.root["etc"] = &fstest.MapFile{Mode: fs.ModeDir | 0o777}
			w.cfg.Consul.TokenFile = "/etc/t"
		}, "files", Fail, "replaced by every user", "chmod o-w /etc"},
		"good token":   {func(w *ward) { w.file("etc/t", 0o640); w.cfg.Consul.TokenFile = "/etc/t" }, "files", OK, "all 1", ""},
		"token inside": {func(w *ward) { w.file("etc/o.hcl", 0o644); w.files = []string{"/etc/o.hcl"}; w.cfg.Consul.Token = "t" }, "files", Warn, "configuration /etc/o.hcl may be read", "chmod"},
		"JWT expired":  {func(w *ward) { w.root["j"] = jwt(`{"exp": 1000}`); w.cfg.Vault.Auth.JWTFile = "/j" }, "files", Fail, "JWT for Vault /j expired at 1970", "new one"},
		"JWT is none":  {func(w *ward) { w.root["j"] = jwt(`[]`); w.cfg.Vault.Auth.JWTFile = "/j" }, "files", Fail, "no JSON web token", "good one"},
		"JWT good": {func(w *ward) {
			w.root["j"] = jwt(`{"exp": 4000000000}`)
			w.cfg.Consul.Login = &hcl.Login{TokenFile: "/j"}
		}, "files", OK, "all 1", ""},
		"certificate": {func(w *ward) {
			w.root["c"] = &fstest.MapFile{Mode: 0o644, Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.survey.Bundle.Roots[0].Certificates[0].Raw})}
			w.cfg.Vault.TLS = &hcl.TLS{CAFile: "/c"}
			w.now = w.caEnd().Add(-time.Hour)
		}, "files", Warn, "CA of Vault /c expires at", "new one"},

		"port taken":       {func(w *ward) { w.root["proc/801/comm"] = &fstest.MapFile{Data: []byte("nginx\n")} }, "ports", Fail, "0.0.0.0:21000 of the inbound listener of web is taken by nginx, process 801", "ss -ltnp"},
		"port of somebody": {func(w *ward) { delete(w.root, "proc/801/fd/4") }, "ports", Fail, "taken by somebody", "another port"},
		"privileged":       {func(w *ward) { w.cfg.Services[0].Connect.SidecarService.Port = 443 }, "ports", Warn, "below 1024 only root", "CAP_NET_BIND_SERVICE"},
		"given away": {func(w *ward) {
			w.cfg.Services[0].Connect.SidecarService.Port = 40000
			w.root["proc/sys/net/ipv4/ip_local_port_range"] = &fstest.MapFile{Data: []byte("32768\t60999\n")}
		}, "ports", Warn, "outgoing connections (32768-60999)", "ip_local_reserved_ports"},
		"no application": {func(w *ward) { w.cfg.Services[0].Port = 8081 }, "application web", Warn, "nobody listens on 127.0.0.1:8081", "start"},

		"leftover":         {func(w *ward) { w.chains = natRules }, "traffic redirection", Fail, "CONSUL_PROXY_IN_REDIRECT, CONSUL_PROXY_REDIRECT lead traffic to port 15001", "iptables-restore"},
		"leftover of nft":  {func(w *ward) { w.chains = nftRules }, "traffic redirection", Fail, "lead traffic to port 15001", "iptables-restore"},
		"redirection":      {func(w *ward) { w.chains = natRules; w.listen("00000000:3A99", 4, "outrider") }, "traffic redirection", OK, "somebody listens", ""},
		"rules are hidden": {func(w *ward) { w.chainsErr = errors.New("not permitted") }, "traffic redirection", Skipped, "run this as root", ""},
		"few files": {func(w *ward) {
			w.root["proc/801/limits"] = &fstest.MapFile{Data: []byte("Max open files            1024                 1024               files\n")}
		}, "open files", Warn, "the agent, process 801, may have 1024", "LimitNOFILE"},
		"little memory": {func(w *ward) { w.root["proc/meminfo"] = &fstest.MapFile{Data: []byte("MemTotal: 32768 kB\n")} }, "memory", Warn, "32 MB", "64 MB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serving()
			tc.ill(w)
			f := w.finding(t, tc.check)
			if f.State != tc.state || !strings.Contains(f.Evidence, tc.evidence) || !strings.Contains(f.Remedy, tc.remedy) || (f.Remedy == "") != (tc.remedy == "") {
				t.Errorf("finding %+v", f)
			}
		})
	}
}

const natRules = `*nat
:CONSUL_PROXY_IN_REDIRECT - [0:0]
:CONSUL_PROXY_REDIRECT - [0:0]
-A DOCKER -p tcp -j REDIRECT --to-ports 9999
-A CONSUL_PROXY_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
`

const nftRules = `table ip nat {
	chain DOCKER {
		redirect to :9999
	}
	chain CONSUL_PROXY_REDIRECT {
		meta l4proto tcp counter packets 0 bytes 0 redirect to :15001
	}
}
`

func noSuchHost(host string) ([]string, error) { return nil, errors.New("no such host") }

func (w *ward) file(at string, mode fs.FileMode) {
	w.root[at] = &fstest.MapFile{Mode: mode, Data: []byte("secret-content\n")}
}

func TestOfflineAsksNobodyAndSaysSo(t *testing.T) {
	t.Parallel()
	w := serving()
	w.offline, w.named, w.expected = true, true, true
	w.survey, w.vault, w.node = nil, nil, nil // whoever asks, fails
	w.cfg.Vault.Address = "https://vault.example"
	w.lookup = func(string) ([]string, error) { panic("asked") }
	found := w.examine(t)
	if Failed(found) {
		t.Errorf("it has failed: %+v", found)
	}
	skipped := make(map[string]bool)
	for _, f := range found {
		if strings.Contains(f.Evidence, "-offline") {
			skipped[f.Check] = f.State == Skipped
		}
	}
	for _, check := range []string{"Consul agent", "Vault", "Nomad agent", "running agent", "names"} {
		if !skipped[check] {
			t.Errorf("%s is not said to be skipped: %+v", check, found)
		}
	}
	// What needs nobody is looked at all the same.
	w.file("etc/t", 0o666)
	w.cfg.Consul.TokenFile = "/etc/t"
	if f := w.finding(t, "files"); f.State != Fail {
		t.Errorf("finding %+v", f)
	}
}

func TestNoFindingShowsWhatASecretFileHolds(t *testing.T) {
	t.Parallel()
	w := serving()
	w.file("etc/t", 0o666)
	w.cfg.Consul = hcl.Consul{Address: "127.0.0.1:8500", TokenFile: "/etc/t", Login: &hcl.Login{AuthMethod: "m", TokenFile: "/etc/t"}}
	w.cfg.Vault.Auth = hcl.Auth{Method: "jwt", JWTFile: "/etc/t", SecretIDFile: "/etc/t", KeyFile: "/etc/t", CertFile: "/etc/t", Token: "secret-content"}
	for _, f := range w.examine(t) {
		if strings.Contains(f.Evidence+f.Remedy, "secret-content") {
			t.Errorf("finding %+v", f)
		}
	}
}

func TestAddressesOfTheKernelAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0100007F": "127.0.0.1", "00000000": "0.0.0.0", "00000000000000000000000001000000": "::1", "0000000000000000FFFF00000100007F": "127.0.0.1", "zz": "invalid IP", "01": "invalid IP",
	} {
		if got := kernelAddress(text).String(); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

func TestOtherAddressesDoNotCollide(t *testing.T) {
	t.Parallel()
	w := serving()
	w.root["proc/net/tcp"] = &fstest.MapFile{Data: []byte("head\n")}
	w.listen("0200007F:23E7", 2, "other") // 127.0.0.2:9191
	w.listen("0100007F:1F90", 3, "app")
	if f := w.finding(t, "ports"); f.State != OK {
		t.Errorf("finding %+v", f)
	}
}
