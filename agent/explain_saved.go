// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// maxSaved bounds a file of snapshots in bytes.
const maxSaved = 64 << 20

// ExplainSaved answers a question by what GET /v1/snapshot has answered, which
// from is read for to its end. Limits in time are judged at now. The error says
// what of the file cannot be understood.
func ExplainSaved(ctx context.Context, from io.Reader, q explain.Question, now time.Time) (ExplainAnswer, error) {
	var out ExplainAnswer
	snapshots, err := readSnapshots(from)
	if err != nil {
		return out, err
	}
	host := &explainHost{saved: true, blind: "it has no sidecar in the file"}
	for _, id := range slices.Sorted(maps.Keys(snapshots)) {
		asked, err := proxy.Explain(snapshots[id])
		if err != nil {
			return out, fmt.Errorf("sidecar %q: %w", id, err)
		}
		host.sidecars = append(host.sidecars, explainedSidecar{
			id: id, snapshot: snapshots[id],
			out: func(_ context.Context, q explain.Question) explain.Outbound { return asked.Outbound(q, now) },
			in:  func(_ context.Context, a explain.Arrival) explain.Inbound { return asked.Inbound(a, now) },
		})
	}
	out.Explanation = explain.Compose(ctx, host, q)
	out.Lines = out.Explanation.Lines(now)
	return out, nil
}

// readSnapshots reads what GET /v1/snapshot has answered: snapshots by proxy ID.
// Leaf and roots come back as facts: nobody can be made to believe them. A
// sidecar that had no snapshot is left out.
func readSnapshots(from io.Reader) (map[string]*connect.Snapshot, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxSaved+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the snapshots: %w", err)
	case len(text) > maxSaved:
		return nil, fmt.Errorf("read the snapshots: they are longer than %d MB", maxSaved>>20)
	}
	var dumps map[string]*snapshotDump
	if err := json.Unmarshal(text, &dumps); err != nil {
		return nil, fmt.Errorf("understand the snapshots: %w; they must be what GET /v1/snapshot of the admin API has answered", err)
	}
	out := make(map[string]*connect.Snapshot, len(dumps))
	for id, d := range dumps {
		if d == nil {
			continue
		}
		if out[id], err = d.load(); err != nil {
			return nil, fmt.Errorf("understand the snapshot of sidecar %q: %w", id, err)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("understand the snapshots: there is none; they must be what GET /v1/snapshot of the admin API has answered")
	}
	return out, nil
}

// load is dump turned round, as far as that goes.
func (d *snapshotDump) load() (*connect.Snapshot, error) {
	if d.TrustDomain == "" {
		return nil, errors.New("it names no trust domain")
	}
	u, err := url.Parse(d.Leaf.Identity)
	if err != nil {
		return nil, fmt.Errorf("its leaf: %w", err)
	}
	id, err := connect.ParseIdentity(u)
	if err != nil {
		return nil, fmt.Errorf("its leaf: %w", err)
	}
	s := &connect.Snapshot{
		Version: d.Version, Service: d.Service, Mesh: d.Mesh, DefaultAction: d.DefaultAction, Intentions: d.Intentions, JWTProviders: d.JWTProviders,
		Upstreams: d.Upstreams, Chains: d.Chains, Endpoints: d.Endpoints, Gateways: d.Gateways, Destinations: d.Destinations,
		Leaf: &connect.Leaf{
			Identity: id, Issuer: d.Leaf.Issuer, Chain: []*x509.Certificate{{NotBefore: d.Leaf.NotBefore, NotAfter: d.Leaf.NotAfter, URIs: []*url.URL{u}}},
		},
		Bundle: bundleOf(d.TrustDomain),
	}
	for name, p := range d.Peers {
		if s.Peers == nil {
			s.Peers = make(map[string]connect.Peer, len(d.Peers))
		}
		peer := connect.Peer{Name: name, Partition: p.Partition, Problem: p.Problem}
		if p.TrustDomain != "" {
			peer.Bundle = bundleOf(p.TrustDomain)
		}
		s.Peers[name] = peer
	}
	return s, nil
}

// bundleOf is a bundle that names a trust domain and trusts nobody.
func bundleOf(trustDomain string) *connect.TrustBundle {
	return &connect.TrustBundle{TrustDomain: trustDomain, Pool: x509.NewCertPool()}
}
