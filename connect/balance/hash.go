// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"cmp"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

const (
	// A ring gives each unit of weight this many points while it has between
	// the smallest size and maxGrown of them. A constant keeps consistency
	// exact: no endpoint gets or loses points because another one comes or goes.
	pointsPerWeight = 128
	maxGrown        = 1 << 16

	defaultMinRing = 1024

	// maxRing bounds a ring to 20 MiB whatever Consul asks for. Consul's own
	// bound, 8 Mi, spreads no better: past some hundred points for each endpoint
	// the shares differ by a few percent, which the keys' own unevenness hides.
	maxRing = 1 << 20

	// The size of Envoy's maglev tables, a prime.
	maglevSize = 65537
	// A slot is 16 bits. Endpoints beyond these share no keys of their own and
	// are reached when others are out.
	maglevEntries = 1 << 16

	// Tries to find a free endpoint by hashing again, before walking.
	rehashes = 16
)

// Hash folds a part of what a request is hashed on into the hash of the parts
// before it, 0 for none. It is the same in every process and on every machine:
// the sidecars of a fleet agree on the endpoint of a key. It is no defence
// against callers who choose their keys.
func Hash(before uint64, part string) uint64 {
	h := mix(before) ^ 0xcbf29ce484222325
	for i := range len(part) {
		h = (h ^ uint64(part[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix spreads every bit of h over all of them, one to one.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Hashes reports whether the policy places requests by hash, so that hashing
// one is worth the time.
func (g *Group) Hashes() bool { return g.policy == ringHash || g.policy == maglev }

// PickHashed returns the endpoint of a hash, or when that one is ejected at now
// or in tried, the next one of the same hash: all other hashes stay where they
// are. The answer depends on nothing else, and nil means as in [Group.Pick].
// Under a policy without hashing it is Pick.
func (g *Group) PickHashed(now time.Time, hash uint64, tried []*Entry) *Entry {
	if g.table == nil || len(g.entries) == 0 {
		return g.Pick(now, tried)
	}
	slots := g.table.slots()
	e := g.place(slots, mix(hash), now, tried)
	if e == nil && g.desperate(now) {
		e = g.place(slots, mix(hash), endOfTime, tried)
	}
	return e
}

func (g *Group) place(s *slots, hash uint64, ejected time.Time, tried []*Entry) *Entry {
	if s.maglev != nil {
		h := hash
		for range rehashes {
			if e := &g.entries[s.maglev[h%maglevSize]]; free(e, ejected, tried) {
				return e
			}
			h = mix(h + 1)
		}
	} else {
		at := s.search(hash)
		// Enough to pass by a few that are out; a ring that is nearly all out
		// would be long to walk.
		for n := range min(len(s.ring), 16*len(g.entries)) {
			if e := &g.entries[s.ring[(at+n)%len(s.ring)].owner]; free(e, ejected, tried) {
				return e
			}
		}
	}
	return g.walk(int(hash%uint64(len(g.entries))), ejected, tried) //nolint:gosec // below the number of endpoints
}

// A table is where hashes belong, under one policy over one list of members. It
// is filled when the first hash is placed: most upstreams of most snapshots are
// not called before the next snapshot. The registry hands an unchanged table on
// from group to group, so that it is filled once.
type table struct {
	policy  string
	size    uint64 // of a ring, at least
	most    uint64 // of a ring
	members []member

	filling sync.Mutex
	filled  atomic.Pointer[slots]
}

// A member is one endpoint as a table knows it: its place among the entries of
// the group is its place among the members.
type member struct{ name, weight uint64 }

// slots is the content of a table: one of the two.
type slots struct {
	ring   []point // ascending
	starts []uint32
	shift  int
	maglev []uint16
}

// search returns the position of the first point from hash on, len(ring) when
// there is none. Hashes are spread evenly, so that starts, the same for every
// value of the upper bits, leaves a step or two to go.
func (s *slots) search(hash uint64) int {
	at := int(s.starts[hash>>s.shift])
	for at < len(s.ring) && s.ring[at].hash < hash {
		at++
	}
	return at
}

func (s *slots) index() {
	width := bits.Len(uint(len(s.ring)))
	s.shift = 64 - width
	s.starts = make([]uint32, 1<<width)
	at := 0
	for i := range s.starts {
		for at < len(s.ring) && s.ring[at].hash>>s.shift < uint64(i) {
			at++
		}
		s.starts[i] = uint32(at)
	}
}

// A point is the end of the arc of hashes that an endpoint owns.
type point struct {
	hash  uint64
	owner uint32
}

func newTable(g *Group, lb connect.LoadBalancer) *table {
	t := &table{policy: g.policy, members: make([]member, len(g.entries))}
	if g.policy == ringHash {
		t.size = uint64(orDefault(max(0, lb.MinRingSize), defaultMinRing)) //nolint:gosec // above 0
		t.most = maxRing
		if lb.MaxRingSize > 0 {
			t.most = min(maxRing, uint64(lb.MaxRingSize))
		}
	}
	for i := range g.entries {
		e := &g.entries[i]
		t.members[i] = member{Hash(uint64(e.Endpoint.Port), e.Endpoint.Address), e.weight}
	}
	return t
}

// same reports whether both tables send every hash to the same member.
func (t *table) same(other *table) bool {
	return other != nil && t.policy == other.policy && t.size == other.size && t.most == other.most && slices.Equal(t.members, other.members)
}

// slots fills the table if nobody has; the first requests wait for it.
func (t *table) slots() *slots {
	if s := t.filled.Load(); s != nil {
		return s
	}
	t.filling.Lock()
	defer t.filling.Unlock()
	if s := t.filled.Load(); s != nil {
		return s
	}
	s := &slots{}
	if t.policy == maglev {
		s.maglev = fillMaglev(t.members)
	} else {
		s.ring = fillRing(t.members, t.size, t.most)
		s.index()
	}
	t.filled.Store(s)
	return s
}

// fillRing gives each member points by weight, at least one. A ring is as large
// as pointsPerWeight makes it, but no smaller than size; most is the last word.
func fillRing(members []member, size, most uint64) []point {
	var total uint64
	for _, m := range members {
		total += m.weight
	}
	size = min(max(size, min(pointsPerWeight*total, maxGrown)), most)
	ring := make([]point, 0, size+uint64(len(members)))
	for i, m := range members {
		for n := range max(1, m.weight*size/total) {
			ring = append(ring, point{mix(m.name + n*0x9e3779b97f4a7c15), uint32(i)})
		}
	}
	slices.SortFunc(ring, func(a, b point) int { return cmp.Compare(a.hash, b.hash) })
	return ring
}

// fillMaglev lets the members take free slots in turns, each in an order of its
// own. A member takes as many turns as its weight, and the order of the turns
// is that of their names, whatever order Consul lists them in (the algorithm of
// "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016).
func fillMaglev(members []member) []uint16 {
	type taker struct {
		owner                      uint16
		next, skip, credit, weight uint64
	}
	takers := make([]taker, 0, min(len(members), maglevEntries))
	var heaviest uint64
	for i, m := range members[:cap(takers)] {
		heaviest = max(heaviest, m.weight)
		takers = append(takers, taker{owner: uint16(i), next: m.name % maglevSize, skip: mix(m.name+1)%(maglevSize-1) + 1, weight: m.weight})
	}
	slices.SortStableFunc(takers, func(a, b taker) int { return cmp.Compare(members[a.owner].name, members[b.owner].name) })
	out, taken := make([]uint16, maglevSize), make([]bool, maglevSize)
	for left := maglevSize; left > 0; {
		for i := range takers {
			t := &takers[i]
			if t.credit += t.weight; t.credit < heaviest || left == 0 {
				continue
			}
			t.credit -= heaviest
			for taken[t.next] {
				t.next = (t.next + t.skip) % maglevSize
			}
			out[t.next], taken[t.next] = t.owner, true
			left--
		}
	}
	return out
}
