// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// explainer answers GET /v1/explain, and is told of what ends.
type explainer struct {
	*lately
	agent *Agent
	busy  chan struct{} // one slot for each question under way
}

// Bounds of what questions cost: any program that reaches the admin API may ask
// them.
const (
	maxQuestions   = 4
	askConsulWhile = 5 * time.Second
)

func newExplainer(a *Agent) *explainer {
	return &explainer{lately: newLately(), agent: a, busy: make(chan struct{}, maxQuestions)}
}

// An ExplainAnswer is the body of GET /v1/explain.
type ExplainAnswer struct {
	explain.Explanation
	Lines []explain.Line // the same as text
}

// ServeHTTP answers what becomes of a call. Parameters: source, destination,
// method and path, host, and header ("name: value", any number). Values of
// headers and queries are not told again.
//
// Consul is asked with the agent's token about services that are not here only
// for those who may use the socket: on the loopback, anybody of the host could
// read by it what the token may read.
func (e *explainer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := r.URL.Query()
	q, err := explain.New(p.Get("source"), p.Get("destination"), p.Get("method"), p.Get("path"), p.Get("host"), p["header"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case e.busy <- struct{}{}:
		defer func() { <-e.busy }()
	default:
		answer(w, http.StatusTooManyRequests, fmt.Sprintf("%d questions are being answered; ask again", maxQuestions))
		return
	}
	host := &explainHost{sidecars: e.agent.explained(), lately: e.lately, blind: "it has no sidecar on this host, and Consul is asked by those only who use the admin socket"}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		host.consul = e.agent.consul
	}
	out := ExplainAnswer{Explanation: explain.Compose(r.Context(), host, q)}
	out.Lines = out.Explanation.Lines(time.Now())
	answerJSON(w, out)
}

// explained are the sidecars that can be asked, by proxy ID.
func (a *Agent) explained() []explainedSidecar {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []explainedSidecar
	for _, key := range slices.Sorted(maps.Keys(a.sidecars)) {
		ses := a.sidecars[key].now.Load()
		if ses == nil {
			continue
		}
		if s := ses.proxy.Snapshot(); s != nil {
			out = append(out, explainedSidecar{id: ses.id(), snapshot: s, out: ses.proxy.ExplainOutbound, in: ses.proxy.ExplainInbound})
		}
	}
	return out
}

// explainedSidecar is one that can be asked, running or saved.
type explainedSidecar struct {
	id       string
	snapshot *connect.Snapshot
	out      func(context.Context, explain.Question) explain.Outbound
	in       func(context.Context, explain.Arrival) explain.Inbound
}

// explainHost is this host, or a file that one has saved.
type explainHost struct {
	sidecars []explainedSidecar
	saved    bool           // sidecars do not run
	consul   *consul.Client // nil: not asked
	blind    string         // why nothing is known of services that are not here, without consul
	lately   *lately        // nil: nobody has remembered
}

// Outbound asks the sidecar of the source; nil when there is none.
func (h *explainHost) Outbound(ctx context.Context, q explain.Question) *explain.Outbound {
	var found *explainedSidecar
	others := 0
	for i := range h.sidecars {
		s := &h.sidecars[i]
		if service := &s.snapshot.Service; q.Source != service.Name && q.Source != service.ID && q.Source != s.id {
			continue
		}
		if found == nil {
			found = s
		} else {
			others++
		}
	}
	if found == nil {
		return nil
	}
	out := found.out(ctx, q)
	out.ProxyID = cmp.Or(out.ProxyID, found.id)
	if others > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d more sidecars of %s are on this host: name one by its ID", others, q.Source))
	}
	out.Lately = h.lately.outbound(out.ProxyID, out.Upstream)
	return &out
}

// Inbound asks the sidecar of the destination, or Consul.
func (h *explainHost) Inbound(ctx context.Context, a explain.Arrival) explain.Inbound {
	ctx, cancel := context.WithTimeout(ctx, askConsulWhile)
	defer cancel()
	in := h.here(ctx, a)
	if in == nil {
		in = h.elsewhere(ctx, a)
	}
	if in.Rule != nil {
		in.Written = h.author(ctx, in.Rule)
	}
	return *in
}

func (h *explainHost) here(ctx context.Context, a explain.Arrival) *explain.Inbound {
	for i := range h.sidecars {
		s := &h.sidecars[i]
		if !isService(&s.snapshot.Service, a) {
			continue
		}
		in := s.in(ctx, a)
		in.ProxyID = cmp.Or(in.ProxyID, s.id)
		where := "on this host"
		if h.saved {
			where = "in the file"
		}
		in.From = fmt.Sprintf("the sidecar %s %s, snapshot %d", in.ProxyID, where, in.Snapshot)
		in.Lately = h.lately.inbound(in.ProxyID, callerOf(a, s.snapshot))
		return &in
	}
	return nil
}

// isService reports whether what arrives is for instances of a local service: it
// is judged by the same intentions wherever they are.
func isService(s *connect.Service, a explain.Arrival) bool {
	return a.Peer == "" && a.Service.Name == s.Name && (a.Datacenter == "" || a.Datacenter == s.Datacenter) &&
		(a.Service.Namespace == "" || a.Service.Namespace == s.Namespace) && (a.Service.Partition == "" || a.Service.Partition == s.Partition)
}

func callerOf(a explain.Arrival, to *connect.Snapshot) connect.Identity {
	if a.Caller != nil {
		return *a.Caller
	}
	return a.Question.Caller(to.Service, to.Bundle.TrustDomain, to.Peers)
}

// elsewhere judges by the intentions in Consul, with the evaluator of sidecars.
func (h *explainHost) elsewhere(ctx context.Context, a explain.Arrival) *explain.Inbound {
	unknown := func(format string, args ...any) *explain.Inbound {
		return &explain.Inbound{Service: a.Service.Name, Unknown: fmt.Sprintf(format, args...)}
	}
	switch {
	case a.Peer != "":
		return unknown("it is a service of peer %q, and so are its intentions", a.Peer)
	case h.consul == nil:
		return unknown("%s", h.blind)
	case len(h.sidecars) == 0:
		return unknown("no sidecar of this host has heard of the mesh yet")
	}
	policy, err := h.consul.Policy(ctx, a.Service.Name)
	if err != nil {
		return unknown("%v", err)
	}
	near := h.sidecars[0].snapshot
	asked, err := proxy.Explain(&connect.Snapshot{
		Service: connect.Service{
			Name: a.Service.Name, Protocol: cmp.Or(a.Protocol, policy.Protocol), Namespace: cmp.Or(a.Service.Namespace, near.Service.Namespace),
			Partition: cmp.Or(a.Service.Partition, near.Service.Partition), Datacenter: cmp.Or(a.Datacenter, near.Service.Datacenter), BindAddress: "127.0.0.1",
		},
		Bundle: &connect.TrustBundle{TrustDomain: near.Bundle.TrustDomain}, Peers: near.Peers,
		Intentions: connect.SortIntentions(policy.Rules), DefaultAction: policy.Default, JWTProviders: policy.Providers,
		Mesh: connect.Mesh{Normalization: policy.Normalization},
	})
	if err != nil {
		return unknown("%v", err)
	}
	in := asked.Inbound(a, time.Now())
	if in.Reason == connect.JWTInvalid {
		return unknown("%s; the keys for that are known to its own sidecar", in.Why)
	}
	in.From = "the intentions in Consul, for its sidecar is on another host; default policy: " + policy.DefaultFrom
	in.ProxyID, in.Snapshot, in.Application, in.Settings = "", 0, "", nil
	return &in
}

func (h *explainHost) author(ctx context.Context, rule *connect.Intention) *explain.Written {
	w := &explain.Written{Entry: fmt.Sprintf("service-intentions %q", rule.Destination)}
	if h.consul == nil {
		w.Problem = "who wrote it is told by Consul, which is asked over the admin socket only"
		if h.saved {
			w.Problem = "who wrote it is told by Consul, and a file does not know it"
		}
		return w
	}
	by, err := h.consul.Author(ctx, *rule)
	if err != nil {
		w.Problem = strings.TrimSpace(err.Error())
		return w
	}
	w.Description, w.By, w.Meta, w.Created, w.Modified = by.Description, by.External, by.Meta, by.Created, by.Changed
	w.CreatedAt, w.UpdatedAt = by.CreatedAt, by.ChangedAt
	return w
}
