// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/nomad"
)

func (p *patient) consulAgent() Finding {
	const check = "Consul agent"
	if p.Offline {
		return Finding{check, Skipped, errOffline.Error(), ""}
	}
	if p.consul == nil {
		return Finding{check, Fail, p.consulErr.Error(), "start the Consul agent of this host, or name it in CONSUL_HTTP_ADDR or the consul block of -config"}
	}
	if p.consul.Leader == "" {
		return Finding{check, Fail, fmt.Sprintf("%s answers, and knows no leader of its cluster", p.consul.Address), "see the log of the Consul agent: without a leader nothing can be read or registered"}
	}
	version := cmp.Or(p.consul.Version, p.attribute("consul.version"))
	if version == "" {
		return Finding{check, OK, fmt.Sprintf("%s answers; its version is told to tokens with agent:read only", p.consul.Address), ""}
	}
	return Finding{check, OK, fmt.Sprintf("%s answers, version %s", p.consul.Address, version), ""}
}

func (p *patient) consulToken() Finding {
	const check = "Consul token"
	switch {
	case p.consul == nil:
		return Finding{check, Skipped, "Consul does not answer", ""}
	case p.consul.TokenErr != nil:
		return Finding{check, Fail, p.consul.TokenErr.Error(), "give a token that Consul knows in CONSUL_HTTP_TOKEN_FILE or the consul block of -config"}
	case p.consul.Token == nil && p.Config.Consul.Login != nil:
		return Finding{check, Skipped, fmt.Sprintf("the agent logs in to auth method %s, which would make a token; what it logs in with is looked at below", p.Config.Consul.Login.AuthMethod), ""}
	case p.consul.Token == nil:
		return Finding{check, Skipped, "none is given; with ACLs the anonymous token decides what may be read", ""}
	case p.consul.Token.Disabled:
		return Finding{check, OK, "Consul has no ACLs, so the token is not looked at", ""}
	}
	t := p.consul.Token
	evidence := "valid, accessor " + t.Accessor
	if len(t.Grants) > 0 {
		evidence += ", " + strings.Join(t.Grants, ", ")
	}
	if !t.Expires.IsZero() {
		evidence += ", expires at " + t.Expires.Format(time.RFC3339)
		if left := t.Expires.Sub(p.Now()); left < expiresSoon {
			return Finding{check, Warn, evidence, "give a token that lives longer, or have the agent log in: consul { login { auth_method } }"}
		}
	}
	return Finding{check, OK, evidence, ""}
}

func (p *patient) consulConnect() Finding {
	const check = "Consul service mesh"
	switch {
	case p.consul == nil:
		return Finding{check, Skipped, "Consul does not answer", ""}
	case p.consul.RootsErr != nil:
		return Finding{check, Fail, p.consul.RootsErr.Error(), "set connect { enabled = true } on the Consul servers; with ACLs the roots need any valid token"}
	case p.consul.Roots == 0:
		return Finding{check, Fail, "the CA of the mesh has no root yet", "set connect { enabled = true } on the Consul servers and see their log for the CA"}
	}
	return Finding{check, OK, fmt.Sprintf("the CA of the mesh answers, number of roots: %d", p.consul.Roots), ""}
}

// consulChecks looks for checks for which Consul takes sidecars of this host out of
// what callers are given, whoever runs them.
func (p *patient) consulChecks() []Finding {
	const check = "Consul's checks of sidecars"
	switch {
	case p.consul == nil:
		return []Finding{{check, Skipped, "Consul does not answer", ""}}
	case p.consul.FailingErr != nil:
		return []Finding{{check, Skipped, p.consul.FailingErr.Error(), ""}}
	}
	var out []Finding
	for _, f := range p.consul.Failing {
		whose := f.ServiceID
		switch {
		case whose == "":
			whose = "the whole host"
		case !p.isSidecar(whose):
			continue
		}
		remedy := "see whether the address in it leads to the sidecar from where Consul runs, and who else has its port: ss -ltnp, iptables-save -t nat"
		if strings.HasPrefix(f.Output, "Aliased check") || whose == "the whole host" {
			remedy = "mend what the check looks at, or the check"
		}
		out = append(out, Finding{check, Warn, fmt.Sprintf("callers may leave out %s: check %q is %s%s", whose, f.Name, f.Status, optional(": ", f.Output)), remedy})
	}
	if len(out) == 0 {
		return []Finding{{check, OK, "none fails", ""}}
	}
	return out
}

// isSidecar reports whether a service of Consul is a sidecar: one of the agent that
// runs here, or one that is named as Consul and Nomad name them.
func (p *patient) isSidecar(id string) bool {
	if p.agent != nil && slices.ContainsFunc(p.agent.Sidecars, func(s agent.SidecarStatus) bool { return s.ProxyID == id }) {
		return true
	}
	return strings.HasSuffix(id, "-sidecar-proxy")
}

const openConsul = `let Consul's HTTP API listen where groups reach it: client_addr = "127.0.0.1 %[1]s" in Consul's configuration and consul { address = "%[1]s:%[2]s" } in Nomad's, with ACLs and a firewall around it; or addresses { http = "127.0.0.1 unix:///run/consul/http.sock" } for raw_exec`

// reach looks for a way to Consul's HTTP API out of a group with a network of
// its own, in the order in which a sidecar tries them.
func (p *patient) reach(ctx context.Context) Finding {
	const check = "Consul from a bridged group"
	own := p.node.ConsulAddress
	if own != "" && !isSocket(own) && !nomad.IsLoopback(own) {
		if _, err := p.survey(ctx, own); err != nil {
			return Finding{check, Fail, fmt.Sprintf("Nomad's own address of Consul does not answer: %v", err), "let Consul listen there, or correct consul.address in Nomad's configuration"}
		}
		return Finding{check, OK, fmt.Sprintf("%s, Nomad's own address of Consul, is not a loopback: every driver reaches it", own), ""}
	}
	refused := ""
	for _, s := range p.Sockets {
		if s.Err == nil {
			return Finding{check, OK, fmt.Sprintf("the socket %s: raw_exec reaches it; exec and docker need it in their file system", s.Path), ""}
		}
		refused = optional("; a socket is not used: ", s.Err.Error())
	}
	ip, port := p.attribute("unique.network.ip-address"), p.consulPort()
	if ip == "" || port == "" {
		return Finding{check, Warn, "Nomad does not tell the address of this host" + refused, "set CONSUL_HTTP_ADDR in the env of the sidecar task to an address of this host on which Consul listens"}
	}
	outside := net.JoinHostPort(ip, port)
	if _, err := p.survey(ctx, p.scheme()+outside); err == nil {
		return Finding{check, Warn, fmt.Sprintf("Consul answers on %s, and Nomad's consul.address is a loopback, which a group cannot reach: only raw_exec as root finds the way by itself%s", outside, refused),
			fmt.Sprintf(`set consul { address = %q } in Nomad's configuration, or CONSUL_HTTP_ADDR in the env of the sidecar task`, outside)}
	}
	return Finding{check, Warn, fmt.Sprintf("Consul listens on the loopback of the host only, not on %s: raw_exec as root reaches it through the host's network; exec and docker cannot%s", outside, refused),
		fmt.Sprintf(openConsul, ip, port)}
}

func isSocket(address string) bool { return strings.HasPrefix(address, "unix://") }

// consulPort is the port of the configured address; "" for a socket.
func (p *patient) consulPort() string {
	if p.consul == nil || isSocket(p.consul.Address) {
		return "8500"
	}
	u, err := url.Parse(p.consul.Address)
	if err != nil {
		return ""
	}
	if ap, err := netip.ParseAddrPort(u.Host); err == nil {
		return fmt.Sprint(ap.Port())
	}
	return cmp.Or(u.Port(), "8500")
}

func (p *patient) scheme() string {
	if p.consul != nil && strings.HasPrefix(p.consul.Address, "https://") {
		return "https://"
	}
	return ""
}

func optional(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}
