// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limit

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBudgetGivesOutUpToThePercentageThatIsAskedFor(t *testing.T) {
	t.Parallel()
	b := NewBudget(1000, nil)
	for i, step := range []struct {
		n       int64
		percent int
		want    bool
	}{
		{500, 50, true}, {1, 50, false}, {250, 75, true}, {251, 100, false}, {250, 100, true}, {0, 100, true}, {1, 100, false},
	} {
		if got := b.Take(step.n, step.percent); got != step.want {
			t.Errorf("step %d: %t, want %t", i, got, step.want)
		}
	}
	if diff := cmp.Diff(BudgetState{Limit: 1000, Held: 1000, Short: 3}, b.State()); diff != "" {
		t.Error(diff)
	}
	b.Give(400)
	if !b.Take(400, 100) {
		t.Error("what was given back cannot be taken again")
	}
}

func TestPartIsBoundedByItselfAndByTheWhole(t *testing.T) {
	t.Parallel()
	whole := NewBudget(1000, nil)
	one, two := NewBudget(600, whole), NewBudget(600, whole)
	if one.Take(700, 100) || !one.Take(600, 100) {
		t.Error("the part's own limit does not hold")
	}
	if two.Take(500, 100) || !two.Take(400, 100) {
		t.Error("the limit of the whole does not hold")
	}
	if got := whole.State().Held; got != 1000 {
		t.Errorf("%d are held of the whole, want 1000: refused ones must not stay", got)
	}
	if got := two.State().Held; got != 400 {
		t.Errorf("%d are held of the part, want 400", got)
	}
	one.Give(600)
	two.Give(400)
	if whole.State().Held != 0 || one.State().Held != 0 || two.State().Held != 0 {
		t.Error("something is held after all was given back")
	}
}

func TestPressedBudgetGivesOutNothingAndKeepsWhatIsHeld(t *testing.T) {
	t.Parallel()
	whole := NewBudget(1000, nil)
	part := NewBudget(1000, whole)
	part.Take(10, 100)
	whole.Press(true)
	if part.Take(1, 100) || whole.Take(1, 100) {
		t.Error("it gives out")
	}
	if s := part.State(); !s.Pressed || s.Held != 10 || whole.State().Held != 10 {
		t.Errorf("%+v", s)
	}
	whole.Press(false)
	if !part.Take(1, 100) || part.State().Pressed {
		t.Error("it does not give out again")
	}
}

func TestSmallerBudgetTakesNothingBack(t *testing.T) {
	t.Parallel()
	b := NewBudget(1000, nil)
	b.Take(800, 100)
	b.Resize(500)
	if b.Take(1, 100) || b.State().Held != 800 {
		t.Errorf("%+v", b.State())
	}
	b.Give(800)
	if b.Take(501, 100) || !b.Take(500, 100) {
		t.Error("the new limit does not hold")
	}
}

func TestNilBudgetIsNoLimit(t *testing.T) {
	t.Parallel()
	var b *Budget
	if !b.Take(1<<60, 0) || b.State() != (BudgetState{}) {
		t.Error("it limits")
	}
	b.Give(1 << 60)
}

func TestConcurrentTakersNeverHoldMoreThanThereIs(t *testing.T) {
	t.Parallel()
	const limit = 100
	whole := NewBudget(limit, nil)
	parts := []*Budget{NewBudget(limit, whole), NewBudget(limit, whole)}
	var mu sync.Mutex
	held, most := 0, 0
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 2000 {
				b := parts[i%2]
				if !b.Take(30, 100) {
					continue
				}
				mu.Lock()
				held += 30
				most = max(most, held)
				held -= 30
				mu.Unlock()
				b.Give(30)
			}
		})
	}
	all.Wait()
	if most > limit || whole.State().Held != 0 {
		t.Errorf("%d were held at once, %d are left", most, whole.State().Held)
	}
}

func TestBudgetCostsNoAllocation(t *testing.T) {
	b := NewBudget(1000, NewBudget(1000, nil))
	if n := testing.AllocsPerRun(100, func() {
		b.Take(10, 100)
		b.Give(10)
		b.Take(2000, 100)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
