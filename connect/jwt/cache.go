// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"crypto/sha256"
	"sync/atomic"
)

const (
	cacheSets = 256
	cacheWays = 4

	// maxCached is the length in bytes of the longest token that is remembered,
	// which bounds what all of them together hold.
	maxCached = 4 << 10
)

// A cache remembers the claims of tokens by the hash of the whole token. Only
// verified tokens come in, so a caller without one pushes nothing out. It holds
// no token. Readers wait for nobody; which of two writers to one place wins
// does not matter.
type cache struct {
	sets [cacheSets][cacheWays]atomic.Pointer[remembered]
}

type remembered struct {
	key    [sha256.Size]byte
	claims *claims
}

func (c *cache) find(key [sha256.Size]byte) *claims {
	set := &c.sets[key[0]]
	for i := range set {
		if r := set[i].Load(); r != nil && r.key == key {
			return r.claims
		}
	}
	return nil
}

// keep remembers claims for key in a free place of its set, or in one that the
// key itself chooses.
func (c *cache) keep(key [sha256.Size]byte, claims *claims, length int) {
	if length > maxCached {
		return
	}
	entry := &remembered{key: key, claims: claims}
	set := &c.sets[key[0]]
	for i := range set {
		if set[i].CompareAndSwap(nil, entry) {
			return
		}
	}
	set[key[1]%cacheWays].Store(entry)
}
