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
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
)

// running looks at what the agent of this host says about itself.
func (p *patient) running() []Finding {
	const check = "running agent"
	switch {
	case p.agent == nil && p.AgentExpected && !p.Offline:
		return []Finding{{check, Fail, p.agentErr.Error(), "systemctl status outrider, journalctl -u outrider"}}
	case p.agent == nil:
		return []Finding{{check, Skipped, p.agentErr.Error(), ""}}
	case p.agent.Draining:
		return []Finding{{check, Warn, p.agent.Version + " is draining: it accepts no new connections and ends soon", "wait, or see who stopped it: journalctl -u outrider"}}
	}
	var out []Finding
	for i := range p.agent.Sidecars {
		out = append(out, p.sidecar(&p.agent.Sidecars[i])...)
	}
	for _, w := range p.agent.Watches {
		if w.Error == "" {
			continue
		}
		state, since := Warn, "the last good answer stays in force since "+w.LastSuccess.Format(time.RFC3339)
		if w.LastSuccess.IsZero() {
			state, since = Fail, "it has never succeeded"
		}
		out = append(out, Finding{"watches of the agent", state, fmt.Sprintf("%s has failed %d times, %s: %s", w.Key, w.Failures, since, w.Error), "the error says what to do; \"outrider status\" shows all"})
	}
	if len(out) > 0 {
		return out
	}
	return []Finding{{check, OK, fmt.Sprintf("%s serves %d sidecars, up since %s", p.agent.Version, len(p.agent.Sidecars), p.agent.Started.UTC().Format(time.RFC3339)), ""}}
}

// sidecar says what is wrong with one.
func (p *patient) sidecar(s *agent.SidecarStatus) []Finding {
	check := "sidecar of " + s.Service
	var out []Finding
	if !s.Ready {
		out = append(out, Finding{check, Fail, "it is not ready" + optional(": it waits for ", strings.Join(s.Missing, ", ")), "see the checks above, and the log of the agent"})
	}
	for _, problem := range append([]string{s.Problem, s.Proxy.Inbound.Problem}, s.Proxy.Problems...) {
		if problem != "" {
			out = append(out, Finding{check, Fail, problem, "correct what it names; the rest of the configuration is in force"})
		}
	}
	if s.Leaf != nil {
		out = append(out, p.leaf(check, s.Leaf)...)
	}
	for _, u := range s.Proxy.Upstreams {
		usable, known := 0, 0
		for _, t := range u.Targets {
			for _, e := range t.Endpoints {
				if known++; e.NotUsed == "" {
					usable++
				}
			}
		}
		switch {
		case u.Problem != "":
			out = append(out, Finding{check, Fail, fmt.Sprintf("upstream %s: %s", u.ID, u.Problem), "correct what it names"})
		case usable == 0 && len(u.Targets) > 0:
			out = append(out, Finding{check, Warn, fmt.Sprintf("upstream %s has no endpoint that is used, of %d", u.ID, known), "\"outrider status\" says why of each; with none, register the service or check its health in Consul"})
		}
	}
	return out
}

func (p *patient) leaf(check string, l *agent.LeafStatus) []Finding {
	now := p.Now()
	switch {
	case !l.NotBefore.IsZero() && l.NotBefore.Sub(now) > time.Second:
		return []Finding{{check, Fail, fmt.Sprintf("its leaf is valid from %s on, in %s by the clock of this host", l.NotBefore.UTC().Format(time.RFC3339), l.NotBefore.Sub(now).Round(time.Second)),
			"keep the clocks of all hosts together, for example with chrony"}}
	case !l.NotAfter.IsZero() && now.After(l.NotAfter):
		return []Finding{{check, Fail, fmt.Sprintf("its leaf expired at %s, and peers refuse it%s", l.NotAfter.UTC().Format(time.RFC3339), optional(": ", l.Error)), "mend what keeps it from being renewed"}}
	case l.Error != "":
		return []Finding{{check, Warn, fmt.Sprintf("its leaf cannot be renewed, and expires at %s: %s", cmp.Or(l.NotAfter, now).UTC().Format(time.RFC3339), l.Error), "the error says what to do"}}
	}
	return nil
}

// A lookup is what became of one name.
type lookup struct {
	whose, host string
	addresses   []string
	err         error
}

// askNames resolves the names that the configuration holds.
func (p *patient) askNames(ctx context.Context) {
	for _, at := range p.servers() {
		l := lookup{whose: at.whose, host: at.host}
		l.addresses, l.err = p.LookupHost(ctx, at.host)
		p.lookups = append(p.lookups, l)
	}
}

// servers are those that the configuration names by a name which is looked up.
func (p *patient) servers() (out []lookup) {
	addresses := map[string]string{"Consul": p.Config.Consul.Address}
	if p.Config.Vault != nil {
		addresses["Vault"] = p.Config.Vault.Address
	}
	for _, whose := range []string{"Consul", "Vault"} {
		host := hostOf(addresses[whose])
		if _, err := netip.ParseAddr(host); err == nil || host == "" || host == "localhost" {
			continue
		}
		out = append(out, lookup{whose: whose, host: host})
	}
	return out
}

func hostOf(address string) string {
	if isSocket(address) {
		return ""
	}
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Hostname()
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

func (p *patient) names() []Finding {
	const check = "names"
	if p.Offline && len(p.servers()) > 0 {
		return []Finding{{check, Skipped, errOffline.Error(), ""}}
	}
	var out []Finding
	for _, l := range p.lookups {
		if l.err == nil {
			out = append(out, Finding{check, OK, fmt.Sprintf("%s of %s is %s", l.host, l.whose, strings.Join(l.addresses[:min(3, len(l.addresses))], ", ")), ""})
			continue
		}
		remedy := "correct the address, or the resolver of this host"
		if strings.HasSuffix(strings.TrimSuffix(l.host, "."), ".consul") {
			remedy = "have the resolver of this host forward the domain consul to the Consul agent, port 8600 (systemd-resolved: DNS=127.0.0.1:8600 and Domains=~consul), or give an IP address"
		}
		out = append(out, Finding{check, Fail, fmt.Sprintf("%s of %s cannot be looked up: %v", l.host, l.whose, l.err), remedy})
	}
	return out
}
