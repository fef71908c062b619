// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limit

import "sync/atomic"

// A Budget bounds how much may be held at once, in bytes. It may be a part of
// another one, in which what it gives out is held as well. A nil Budget is no
// limit. Safe for concurrent use, without a lock: callers that meet at the limit
// may both be refused, but never both be served beyond it.
type Budget struct {
	max, held, short atomic.Int64
	pressed          atomic.Bool
	above            *Budget
}

// NewBudget returns a budget of max bytes, below 1 of none at all, as a part of
// above; nil makes it the whole.
func NewBudget(bytes int64, above *Budget) *Budget {
	b := &Budget{above: above}
	b.Resize(bytes)
	return b
}

// Resize sets the limit. What is held stays held, even beyond it.
func (b *Budget) Resize(bytes int64) { b.max.Store(bytes) }

// Press stops the budget and its parts from giving out anything, whatever the
// limit, or lets them again.
func (b *Budget) Press(on bool) { b.pressed.Store(on) }

// Take takes n bytes if no more than percent of the budget is held then, and of
// those it is a part of. Whatever can do with less asks with a lower percentage,
// which leaves the rest to what cannot.
func (b *Budget) Take(n int64, percent int) bool {
	if b == nil {
		return true
	}
	enough := b.held.Add(n) <= b.max.Load()/100*int64(percent)
	if enough && !b.pressed.Load() && b.above.Take(n, percent) {
		return true
	}
	b.held.Add(-n)
	b.short.Add(1)
	return false
}

// Give gives back n bytes that were taken.
func (b *Budget) Give(n int64) {
	for ; b != nil; b = b.above {
		b.held.Add(-n)
	}
}

// A BudgetState is that of a budget at one moment.
type BudgetState struct {
	Limit, Held int64 // bytes
	Short       int64 // how often there was not enough
	Pressed     bool  // it gives out nothing, or what it is a part of does not
}

// State returns the state of the budget; the zero state of a nil one.
func (b *Budget) State() BudgetState {
	if b == nil {
		return BudgetState{}
	}
	s := BudgetState{Limit: b.max.Load(), Held: b.held.Load(), Short: b.short.Load()}
	for ; b != nil; b = b.above {
		s.Pressed = s.Pressed || b.pressed.Load()
	}
	return s
}
