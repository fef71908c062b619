// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"slices"
	"sync"
)

// feed passes the values of one watch on to everything in the sidecar that has
// the same key: two listeners of one destination share a discovery chain. The
// watch delivers to a key once, so who joins later is given the last value here.
type feed[ID comparable, V any] struct {
	set func(ID, V)

	mu   sync.Mutex // held while set runs, so that an old value never follows a newer one
	ids  []ID
	last *V // nil until there is one
}

// deliver is the sink of the watch.
func (f *feed[ID, V]) deliver(v V) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = &v
	for _, id := range f.ids {
		f.set(id, v)
	}
}

// serve makes ids all that the values are for.
func (f *feed[ID, V]) serve(ids []ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.ids
	f.ids = ids
	for _, id := range ids {
		if f.last != nil && !slices.Contains(before, id) {
			f.set(id, *f.last)
		}
	}
}

// feeds returns the feed of each key, those of old where it has them.
func feeds[K, ID comparable, V any](old map[K]*feed[ID, V], wanted map[K][]ID, set func(ID, V)) map[K]*feed[ID, V] {
	out := make(map[K]*feed[ID, V], len(wanted))
	for key, ids := range wanted {
		f := old[key]
		if f == nil {
			f = &feed[ID, V]{set: set}
		}
		f.serve(ids)
		out[key] = f
	}
	return out
}

// sinks are the functions of feeds for the set of watches.
func sinks[K, ID comparable, V any](all map[K]*feed[ID, V]) map[K]func(V) {
	out := make(map[K]func(V), len(all))
	for key, f := range all {
		out[key] = f.deliver
	}
	return out
}
