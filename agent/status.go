// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// A Status is what a host serves at one moment. It holds no secret.
type Status struct {
	Version  string
	Started  time.Time
	Draining bool
	Consul   string // address
	Vault    string // address, "" when leaves come from Consul
	Sidecars []SidecarStatus
	Watches  []WatchStatus
}

// A SidecarStatus is that of one sidecar.
type SidecarStatus struct {
	Service string
	ProxyID string
	Ready   bool
	Missing []string // what must be heard before the first snapshot
	Problem string   // why the latest snapshot is not in force in full
	// SnapshotAt is when the latest snapshot came into force; zero before the first.
	SnapshotAt time.Time `json:",omitzero"`

	Leaf          *LeafStatus // nil before the first snapshot
	Roots         []RootStatus
	DefaultPolicy string
	DefaultFrom   string // how the default policy was learnt
	Intentions    []IntentionStatus
	JWTProviders  []JWTProviderStatus `json:",omitempty"` // that intentions name
	Proxy         proxy.Status
}

// A LeafStatus describes the leaf in force and its renewal.
type LeafStatus struct {
	Identity    string
	Issuer      string
	Serial      string
	NotBefore   time.Time
	NotAfter    time.Time
	NextAttempt time.Time `json:",omitzero"`
	Error       string    `json:",omitempty"`
}

// A RootStatus describes one root of the trust bundle.
type RootStatus struct {
	ID       string
	Name     string
	Active   bool
	NotAfter time.Time
}

// An IntentionStatus is one rule in the order of evaluation.
type IntentionStatus struct {
	Source     string
	Target     string
	Precedence int
	Action     string
}

// A WatchStatus is that of one watch on Consul, of the source of the ACL token or
// of the Vault token, or of one key set of a JWT provider. Error is "" when it is
// fine.
type WatchStatus struct {
	Kind        string // "token", "vault_token", "keys", or what is watched: "intentions"
	Key         string
	LastSuccess time.Time
	Expires     time.Time `json:",omitzero"` // of a token, where it is known to end
	Failures    int
	Error       string `json:",omitempty"`
}

// Status reports what the agent does.
func (a *Agent) Status(ctx context.Context) Status {
	a.mu.Lock()
	s := Status{Version: a.opts.Version, Started: a.started, Draining: a.draining, Consul: a.config.Consul.Address}
	if a.config.Vault != nil {
		s.Vault = a.config.Vault.Address
	}
	all := slices.SortedFunc(maps.Values(a.sidecars), func(x, y *sidecar) int { return strings.Compare(x.ref.key(), y.ref.key()) })
	a.mu.Unlock()
	for _, sc := range all {
		s.Sidecars = append(s.Sidecars, sc.status(ctx))
	}
	for _, t := range a.consul.TokenStatus() {
		s.Watches = append(s.Watches, tokenStatus(t))
	}
	if a.vault != nil {
		s.Watches = append(s.Watches, vaultTokenStatus(a.vault.TokenStatus()))
	}
	for _, w := range a.watches.Status() {
		s.Watches = append(s.Watches, watchStatus(w))
	}
	for _, k := range a.keys.Status() {
		s.Watches = append(s.Watches, keySetStatus(k))
	}
	return s
}

func tokenStatus(t consul.TokenStatus) WatchStatus {
	s := watchStatus(watch.Status{Key: t.Source, LastSuccess: t.LastSuccess, Failures: t.Failures, Err: t.Err})
	s.Kind, s.Expires = "token", t.Expires
	return s
}

func vaultTokenStatus(t vault.TokenStatus) WatchStatus {
	s := watchStatus(watch.Status{Key: t.Source, LastSuccess: t.LastSuccess, Failures: t.Failures, Err: t.Err})
	s.Kind, s.Expires = "vault_token", t.Expires
	return s
}

func watchStatus(w watch.Status) WatchStatus {
	kind, _, _ := strings.Cut(w.Key, " ") // the key goes on with whose it is
	s := WatchStatus{Kind: kind, Key: w.Key, LastSuccess: w.LastSuccess, Failures: w.Failures}
	if w.Err != nil {
		s.Error = w.Err.Error()
	}
	return s
}

func (s *sidecar) status(ctx context.Context) SidecarStatus {
	out := SidecarStatus{Service: s.ref.ServiceID, ProxyID: s.id()}
	ses := s.now.Load()
	if ses == nil {
		out.Missing = []string{"the sidecar's registration in Consul"}
		return out
	}
	out.Ready, out.Missing, out.Proxy = ses.ready.Load(), ses.assembler.Missing(), ses.proxy.Status(ctx)
	if err := ses.applyErr.Load(); err != nil && *err != nil {
		out.Problem = (*err).Error()
	}
	snapshot := ses.proxy.Snapshot()
	if snapshot == nil {
		out.Leaf = ses.renewal(LeafStatus{})
		return out
	}
	if at := ses.appliedAt.Load(); at != nil {
		out.SnapshotAt = *at
	}
	out.Service, out.DefaultPolicy = snapshot.Service.Name, snapshot.DefaultAction.String()
	if from := ses.defaultFrom.Load(); from != nil {
		out.DefaultFrom = *from
	}
	out.Leaf = ses.renewal(leafStatus(snapshot.Leaf))
	for _, root := range snapshot.Bundle.Roots {
		out.Roots = append(out.Roots, rootStatus(root))
	}
	for _, i := range snapshot.Intentions {
		out.Intentions = append(out.Intentions, intentionStatus(i, snapshot.Service.Protocol))
	}
	out.JWTProviders = jwtStatus(snapshot)
	return out
}

// renewal adds what the source of the leaf says of its next one.
func (s *session) renewal(l LeafStatus) *LeafStatus {
	source := s.leaf.Load()
	if source == nil {
		return &l
	}
	switch v := (*source).(type) {
	case interface{ Status() vault.LeafStatus }:
		status := v.Status()
		l.NextAttempt = status.NextAttempt
		if status.LastError != nil {
			l.Error = status.LastError.Error()
		}
	case interface{ Status() []watch.Status }:
		for _, w := range v.Status() {
			if w.Err != nil {
				l.Error = w.Err.Error()
			}
		}
	}
	return &l
}

func leafStatus(l *connect.Leaf) LeafStatus {
	return LeafStatus{
		Identity: l.Identity.String(), Issuer: l.Issuer, Serial: fmt.Sprintf("%x", l.Chain[0].SerialNumber),
		NotBefore: l.NotBefore(), NotAfter: l.NotAfter(),
	}
}

func rootStatus(r connect.Root) RootStatus {
	s := RootStatus{ID: r.ID, Name: r.Name, Active: r.Active}
	for _, c := range r.Certificates {
		if s.NotAfter.IsZero() || c.NotAfter.Before(s.NotAfter) {
			s.NotAfter = c.NotAfter
		}
	}
	return s
}

func intentionStatus(i connect.Intention, p connect.Protocol) IntentionStatus {
	action := i.Action.String()
	switch {
	case len(i.Permissions) > 0 && !p.Speaks():
		action = "L7 permissions: deny on TCP"
	case i.JWT != nil && !p.Speaks():
		action = "needs a JWT: deny on TCP"
	case len(i.Permissions) > 0:
		action = fmt.Sprintf("by the first of %d permissions that matches", len(i.Permissions))
		if i.JWT != nil {
			action += ", with a JWT"
		}
	case i.JWT != nil:
		action += " with a JWT"
	}
	return IntentionStatus{Source: sourceName(i.Source), Target: i.Destination, Precedence: i.Precedence, Action: action}
}

// sourceName is "web", or "east/web" for a service of peer east.
func sourceName(s connect.Source) string {
	if s.Peer == "" {
		return s.Name
	}
	return s.Peer + "/" + s.Name
}

// readiness reports whether every sidecar serves, and what is missing in words.
func (a *Agent) readiness() (bool, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return false, "draining"
	}
	staying := maps.Clone(a.sidecars)
	maps.DeleteFunc(staying, func(_ string, s *sidecar) bool { return s.leaving.Load() })
	if len(staying) < len(a.config.Services)+len(a.opts.Sidecars) {
		return false, "starting"
	}
	for _, key := range slices.Sorted(maps.Keys(staying)) {
		ses := staying[key].now.Load()
		if ses == nil {
			return false, fmt.Sprintf("%s waits for its registration in Consul", key)
		}
		if !ses.ready.Load() {
			return false, fmt.Sprintf("%s waits for %s", key, waitsFor(ses))
		}
		if snapshot := ses.proxy.Snapshot(); expired(snapshot, time.Now()) {
			return false, fmt.Sprintf("%s serves a leaf that expired at %s, which peers refuse; status says why there is no newer one", key, snapshot.Leaf.NotAfter().Format(time.RFC3339))
		}
	}
	return true, fmt.Sprintf("serving %d sidecars", len(staying))
}

// expired reports whether peers refuse the leaf of a snapshot for its age.
func expired(s *connect.Snapshot, now time.Time) bool {
	return s != nil && s.Leaf != nil && now.After(s.Leaf.NotAfter())
}

func waitsFor(s *session) string {
	if missing := s.assembler.Missing(); len(missing) > 0 {
		return strings.Join(missing, ", ")
	}
	return "its inbound listener"
}
