// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// This file is about upstreams that are there because intentions let us call
// them, in transparent mode.

// maxUsed bounds how many implicit upstreams count as used: each holds two
// connections to Consul, whose agent allows one address 200 of them.
const maxUsed = 40

// SetImplicit sets the implicit upstreams of a service in transparent mode, nil
// for one that is not, and the addresses outside that must not be called around
// gateways. One with the ID of a registered upstream is left out.
func (a *Assembler) SetImplicit(upstreams []connect.Upstream, destinations []netip.AddrPort) {
	now := time.Now()
	a.set(func(d *draft) {
		d.implicit, d.destinations = upstreams, destinations
		d.setUpstreams(now)
	})
}

// Use says which implicit upstreams have been called. From then on, they are
// among what news must come of at once, as far as there is room.
func (a *Assembler) Use(ids []connect.UpstreamID) {
	a.mu.Lock()
	changed := a.draft.use(ids)
	a.mu.Unlock()
	if !changed {
		return
	}
	select {
	case a.news <- struct{}{}:
	default: // Run has not looked yet
	}
}

func (d *draft) use(ids []connect.UpstreamID) (changed bool) {
	for _, u := range d.implicit {
		if !d.used[u.ID] && len(d.used) < maxUsed && slices.Contains(ids, u.ID) {
			d.used[u.ID], d.rewant, changed = true, true, true
		}
	}
	return changed
}

func (d *draft) withImplicit() []connect.Upstream {
	if d.service == nil || d.service.Transparent == nil || len(d.implicit) == 0 {
		return d.registered
	}
	taken := make(map[connect.UpstreamID]bool, len(d.registered))
	for _, u := range d.registered {
		taken[u.ID] = true
	}
	all := slices.Clone(d.registered)
	for _, u := range d.implicit {
		if !taken[u.ID] {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b connect.Upstream) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// unheardImplicit is what the first snapshot waits for, so that the application
// finds its upstreams when it starts.
func (d *draft) unheardImplicit() []string {
	if d.service.Transparent == nil {
		return nil
	}
	if d.implicit == nil {
		return []string{"the upstreams that intentions allow"}
	}
	waiting := 0
	for _, u := range d.implicit {
		if !d.complete(u) && !d.late[u.ID] {
			waiting++
		}
	}
	if waiting == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d upstreams that intentions allow", waiting)}
}
