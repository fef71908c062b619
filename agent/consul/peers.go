// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

type wirePeering struct {
	Name           string
	State          string
	PeerCAPems     []string
	PeerServerName string // on the side that has established the peering only
	Remote         struct{ Partition string }
}

// openPeer reads a peering, for the roots of the peer. A peering that does not
// exist or has ended, and one that the token may not read, is a peer with a
// problem: nobody waits for it, and nobody of it is let in.
func (c *Client) openPeer(key PeerKey) watch.Fetch[connect.Peer] {
	r := request{
		doing: fmt.Sprintf("read the peering with %q", key), path: "/v1/peering/" + key.Name, params: tenancy("", key.Partition),
		needs: "peering:read, without which neither callers of the peer can be recognised nor its services be called",
		// A peering that was ended from the other side may still be called active
		// in the answer that its end brings: only looking again tells.
		wait: again,
	}
	known, pace := false, pacer{every: again}
	return func(ctx context.Context, after watch.Cursor) (connect.Peer, watch.Cursor, error) {
		if err := segment("name of a peer", key.Name); err != nil {
			return connect.Peer{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		after, err := pace.wait(ctx, after)
		if err != nil {
			return connect.Peer{}, watch.Cursor{}, err
		}
		var w wirePeering
		m, err := c.get(ctx, r, after, &w)
		if reason, missing := absent(err, known); missing {
			return connect.Peer{Name: key.Name, Problem: reason}, pace.cursor(), nil
		}
		if err != nil {
			return connect.Peer{}, watch.Cursor{}, err
		}
		peer, err := convertPeer(key.Name, w)
		if err != nil {
			return connect.Peer{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		known = true
		if m.index == 0 {
			return peer, pace.cursor(), nil
		}
		return peer, watch.Cursor{Index: m.index, Hash: w.State}, nil
	}
}

// convertPeer reads a peering. Every change of the peer's roots is copied into
// it. An error is for an answer that cannot be understood, while the last good
// one serves; a peering that is understood and of no use is a peer's problem.
func convertPeer(name string, w wirePeering) (connect.Peer, error) {
	p := connect.Peer{Name: name, Partition: strings.ToLower(orDefault(w.Remote.Partition))}
	switch {
	case !strings.EqualFold(w.Name, name):
		return p, fmt.Errorf("the answer is about the peering %q", w.Name)
	case w.State == "TERMINATED" || w.State == "DELETING":
		p.Problem = fmt.Sprintf("the peering with %q has been ended", name)
		return p, nil
	case len(w.PeerCAPems) == 0:
		p.Problem = fmt.Sprintf("the peering with %q is not established yet: it is %.40q", name, w.State)
		return p, nil
	case len(w.PeerCAPems) > maxRoots:
		return p, fmt.Errorf("the peer has %d CA roots, at most %d can be right", len(w.PeerCAPems), maxRoots)
	}
	var roots []connect.Root
	for i, text := range w.PeerCAPems {
		certs, err := connect.ParseCertificates([]byte(text))
		if err != nil {
			return p, fmt.Errorf("CA root %d of the peer: %w", i+1, err)
		}
		roots = append(roots, connect.Root{ID: fmt.Sprintf("%s-%d", name, i+1), Name: fmt.Sprintf("root %d of peer %s", i+1, name), Certificates: certs})
	}
	domain, err := trustDomain(peeringDomain(w.PeerServerName), roots)
	if err != nil {
		p.Problem = fmt.Sprintf("the trust domain of peer %q is not known: its CA roots do not name it, and the peering was established from the other side", name)
		return p, nil //nolint:nilerr // it is what the problem says
	}
	p.Bundle, err = connect.NewTrustBundle(domain, roots)
	if errors.Is(err, connect.ErrNoRoots) {
		p.Problem = fmt.Sprintf("peer %q has no CA roots", name)
		return p, nil
	}
	return p, err
}

// peeringDomain is the trust domain in the name of a peer's servers,
// "server.<datacenter>.peering.<trust domain>", "" for any other.
func peeringDomain(server string) string {
	rest, ok := strings.CutPrefix(server, "server.")
	if !ok {
		return ""
	}
	_, domain, ok := strings.Cut(rest, ".peering.")
	if !ok {
		return ""
	}
	return domain
}

func equalPeers(a, b connect.Peer) bool {
	if (a.Bundle == nil) != (b.Bundle == nil) || a.Name != b.Name || a.Partition != b.Partition || a.Problem != b.Problem {
		return false
	}
	return a.Bundle == nil || equalBundles(a.Bundle, b.Bundle)
}
