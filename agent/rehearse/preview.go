// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/connect"
)

// A Swap is a change of what decides on the calls of one service.
type Swap struct {
	Before, After Rules
	// Lost are sources for whom a rule that is not known here may come to hold:
	// one for every destination, behind one that the change takes away. What is
	// known in full has none.
	Lost []connect.Source
}

// An Effect is what a change means for calls that were seen.
type Effect string

// Every Effect. What depends on headers, tokens or paths that were not written
// down only may come about.
const (
	Cut       Effect = "cut"
	MayCut    Effect = "may be cut"
	Opened    Effect = "newly allowed"
	MayOpen   Effect = "may be newly allowed"
	unchanged Effect = ""
)

// A Change is an edge on which the decision changes.
type Change struct {
	Effect        Effect
	Edge          ledger.Edge
	Before, After string // the decision with what led to it
}

// Hurts reports whether somebody who was served may not be.
func (c Change) Hurts() bool { return c.Effect == Cut || c.Effect == MayCut }

// Preview says what a change means for the calls of services on this host, by
// their names. Edges of other services are passed over. What cuts comes first.
func Preview(edges []ledger.Edge, swaps map[string]Swap, now time.Time) ([]Change, error) {
	var out []Change
	judges := map[string][2]*Judge{}
	for _, e := range edges {
		swap, there := swaps[e.Destination]
		if !there || !e.Inbound() {
			continue
		}
		j, made := judges[e.Destination]
		if !made {
			for i, rules := range []Rules{swap.Before, swap.After} {
				var err error
				if j[i], err = NewJudge(rules, peersOf(edges)...); err != nil {
					return nil, err
				}
			}
			judges[e.Destination] = j
		}
		if c := compare(j[0], j[1], e, swap.Lost, now); c.Effect != unchanged {
			out = append(out, c)
		}
	}
	rank := []Effect{Cut, MayCut, Opened, MayOpen}
	slices.SortStableFunc(out, func(a, b Change) int {
		return cmp.Compare(slices.Index(rank, a.Effect), slices.Index(rank, b.Effect))
	})
	return out, nil
}

func peersOf(edges []ledger.Edge) []string {
	var out []string
	for _, e := range edges {
		if e.Peer != "" && !slices.Contains(out, e.Peer) {
			out = append(out, e.Peer)
		}
	}
	return out
}

// compare judges one edge before and after.
func compare(before, after *Judge, e ledger.Edge, lost []connect.Source, now time.Time) Change {
	id := identity(e)
	was, is := before.foresee(e, now), after.foresee(e, now)
	c := Change{Edge: e, Before: was.why, After: is.why}
	// Only who was served can be cut. What the rules leave open, the edge says: it
	// is what became of the calls.
	served := e.Allowed && was.mayAllow
	shut := !was.mayAllow || (was.mayDeny && !e.Allowed)
	old, fresh := before.rule(id), after.rule(id)
	if old != nil && slices.Contains(lost, old.Source) {
		is = forecast{mayAllow: true, mayDeny: true}
		c.After = fmt.Sprintf("that cannot be told: without intention %q, one for all destinations may hold; with -consul it is known", old)
	} else if !is.sure() && reflect.DeepEqual(old, fresh) && before.rules.Default == after.rules.Default {
		return Change{} // it asks for the same as before
	}
	switch {
	case served && is.sure() && is.mayDeny:
		c.Effect = Cut
	case served && is.mayDeny:
		c.Effect = MayCut
	case shut && is.sure() && is.mayAllow:
		c.Effect = Opened
	case shut && is.mayAllow:
		c.Effect = MayOpen
	}
	return c
}

// identity is that of the caller of an edge.
func identity(e ledger.Edge) connect.Identity {
	id := caller(e.Peer, e.Source)
	id.Namespace, id.Partition = cmp.Or(e.Namespace, id.Namespace), cmp.Or(e.Partition, id.Partition)
	return id
}

// A forecast is what may become of the calls of an edge.
type forecast struct {
	mayAllow, mayDeny bool
	why               string
}

func (f forecast) sure() bool { return f.mayAllow != f.mayDeny }

func (f *forecast) add(allowed, token bool) {
	f.mayAllow = f.mayAllow || allowed
	f.mayDeny = f.mayDeny || !allowed || token
}

// foresee says what becomes of the calls of an edge. The evaluator decides; where
// it would look at what an edge does not say, all that it may come to is
// returned.
func (j *Judge) foresee(e ledger.Edge, now time.Time) forecast {
	id := identity(e)
	if e.Method == "" {
		o := j.connection(id)
		return forecast{o.allowed, !o.allowed, o.why}
	}
	if r := j.rule(id); r != nil && j.rules.Protocol.Speaks() {
		if f, certain := j.weigh(r, id, e); !certain {
			return f
		}
	}
	o := j.request(id, &connect.Head{Method: e.Method, Scheme: "http", Authority: e.Destination, Path: e.Example(), Header: connect.Header{}}, now)
	return forecast{o.allowed, !o.allowed, o.why}
}

// weigh goes through a rule as the evaluator does. certain means that nothing
// was looked at which the edge does not say.
func (j *Judge) weigh(r *connect.Intention, id connect.Identity, e ledger.Edge) (f forecast, certain bool) {
	certain = r.JWT == nil
	token := r.JWT != nil
	decided := false
	for _, p := range r.Permissions {
		m := match(p.HTTP, e)
		if m == never {
			continue
		}
		f.add(p.Action == connect.Allow, token || p.JWT != nil)
		certain = certain && m == always && p.JWT == nil
		if decided = m == always; decided {
			break
		}
	}
	switch {
	case decided:
	case len(r.Permissions) > 0:
		f.add(j.rules.Default == connect.Allow && id.Peer == "", token)
	default:
		f.add(r.Action == connect.Allow, token)
	}
	f.why = j.inWords(f, r)
	return f, certain
}

func (j *Judge) inWords(f forecast, r *connect.Intention) string {
	switch {
	case !f.sure():
		return fmt.Sprintf("intention %q decides by what was not written down: headers, tokens or whole paths", r)
	case f.mayAllow:
		return fmt.Sprintf("allowed by intention %q", r)
	}
	return fmt.Sprintf("denied by intention %q", r)
}

// wide parts the path of an edge that stands for any below a stem.
func wide(path string) (stem string, ok bool) { return strings.CutSuffix(path, "/**") }
