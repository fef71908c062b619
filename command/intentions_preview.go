// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"fmt"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/agent/rehearse"
	"github.com/outrider-mesh/outrider/connect"
)

func runPreview(i invocation) int {
	var s sight
	var files list
	fs := i.flags("intentions preview", "-f FILE... [-admin ADDRESS | -edges FILE] [-consul | -config-dir PATH...]")
	fs.Var(&files, "f", "`FILE` with the service-intentions to write, or a directory of them; may be given several times")
	s.flags(fs)
	fine := fs.Bool("ok", false, "exit 0 also when calls would be cut")
	asJSON := fs.Bool("json", false, "print JSON")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	switch wrong := s.check(); {
	case wrong != "":
		return i.misuse("intentions preview: %s", wrong)
	case fs.NArg() > 0:
		return i.misuse("intentions preview: unexpected argument %q", fs.Arg(0))
	case len(files) == 0:
		return i.misuse("intentions preview: of what? give -f FILE with the service-intentions that are to be written")
	case s.edges != "" && !s.elsewhere():
		return i.misuse("intentions preview: which intentions are in force? with -edges, give -consul or -config-dir")
	}
	next, err := i.readEntries(files)
	if err != nil {
		return i.failEntries("intentions preview", err)
	}
	if len(next.Destinations()) == 0 {
		return i.misuse("intentions preview: there are no service-intentions in %s", files.String())
	}
	ctx, stop := interruptible()
	defer stop()
	seen, err := s.seen(ctx)
	if err != nil {
		return i.fail("intentions preview: %v", err)
	}
	current, err := i.current(ctx, s, destinations(seen.Edges))
	if err != nil {
		return i.failEntries("intentions preview", err)
	}
	swaps, err := i.swaps(next, current, seen.Edges, s.elsewhere())
	if err != nil {
		return i.fail("intentions preview: %v", err)
	}
	changes, err := rehearse.Preview(seen.Edges, swaps, time.Now())
	if err != nil {
		return i.fail("intentions preview: %v", err)
	}
	if code := i.printChanges(changes, seen, *asJSON); code != exitOK {
		return code
	}
	if !*fine && slices.ContainsFunc(changes, rehearse.Change.Hurts) {
		return exitFailed
	}
	return exitOK
}

// swaps are what the entries change of each service here. whole says that the
// rules in force are known in full.
func (i invocation) swaps(next *consul.Entries, current map[string]rehearse.Rules, edges []ledger.Edge, whole bool) (map[string]rehearse.Swap, error) {
	out := map[string]rehearse.Swap{}
	for name, before := range current {
		after := before
		rules, lost, err := next.Replace(name, before.Intentions)
		if err != nil {
			return nil, err
		}
		if whole {
			lost = nil
		}
		after.Intentions = rules
		out[name] = rehearse.Swap{Before: before, After: after, Lost: lost}
	}
	called := destinations(edges)
	for _, name := range next.Destinations() {
		if name != connect.Wildcard && !slices.Contains(called, name) {
			i.note(fmt.Sprintf("no call of %s was seen on this host, so nothing is said of its intentions", name))
		}
	}
	for _, name := range called {
		if _, known := current[name]; !known {
			i.note(fmt.Sprintf("the agent does not serve %s any more, so nothing is said of its calls; give -consul to have them judged", name))
		}
	}
	return out, nil
}

func (i invocation) printChanges(changes []rehearse.Change, seen ledger.Edges, asJSON bool) int {
	if asJSON {
		if changes == nil {
			changes = []rehearse.Change{}
		}
		return i.printJSON(struct {
			Forgotten uint64
			Changes   []rehearse.Change
		}{seen.Forgotten, changes})
	}
	p := printer{i.stdout, time.Now()}
	counts := map[rehearse.Effect]int{}
	for _, c := range changes {
		counts[c.Effect]++
		p.line(0, "%-20s %s  (%d times, the last %s)", c.Effect, c.Edge, c.Edge.Count, p.ago(c.Edge.Last))
		p.line(1, "before: %s", c.Before)
		p.line(1, "after:  %s", c.After)
	}
	total := 0
	var since time.Time
	for _, e := range seen.Edges {
		if e.Inbound() {
			total++
			if since.IsZero() || e.First.Before(since) {
				since = e.First
			}
		}
	}
	if total == 0 {
		p.line(0, "No call was seen on this host yet, so this says nothing.")
		return exitOK
	}
	p.line(0, "Of %d kinds of calls seen here since %s: %d cut, %d may be; %d newly allowed, %d may be.", total, since.Format(time.RFC3339),
		counts[rehearse.Cut], counts[rehearse.MayCut], counts[rehearse.Opened], counts[rehearse.MayOpen])
	if seen.Forgotten > 0 {
		p.line(0, "%d calls were not written down for want of room: this is not everything.", seen.Forgotten)
	}
	return exitOK
}
