// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/agent/rehearse"
	"github.com/outrider-mesh/outrider/hcl"
)

func runSuggest(i invocation) int {
	var s sight
	fs := i.flags("intentions suggest", "[-l7] [-dir DIRECTORY] [-admin ADDRESS | -edges FILE] [-consul | -config-dir PATH...] [SERVICE...]")
	l7 := fs.Bool("l7", false, "name methods and forms of paths, and not only who calls")
	dir := fs.String("dir", "", "write SERVICE.hcl for each service into `DIRECTORY`, in place of one that is there, instead of printing")
	s.flags(fs)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if wrong := s.check(); wrong != "" {
		return i.misuse("intentions suggest: %s", wrong)
	}
	ctx, stop := interruptible()
	defer stop()
	seen, err := s.seen(ctx)
	if err != nil {
		return i.fail("intentions suggest: %v", err)
	}
	edges, code := i.only(fs.Args(), seen.Edges)
	if code != exitOK {
		return code
	}
	current, err := i.current(ctx, s, destinations(edges))
	if err != nil {
		return i.failEntries("intentions suggest", err)
	}
	if current == nil {
		i.note("the intentions in force are not known: what they ask for besides is not in this; give -consul or -config-dir")
	}
	if seen.Forgotten > 0 {
		i.note(fmt.Sprintf("%d calls were not written down for want of room: this is not everything that is needed", seen.Forgotten))
	}
	suggestions, err := rehearse.Suggest(edges, *l7, current, time.Now())
	if err != nil {
		return i.fail("intentions suggest: %v", err)
	}
	return i.writeSuggestions(suggestions, *dir)
}

// only keeps the edges of the services that are asked for, or all.
func (i invocation) only(services []string, edges []ledger.Edge) ([]ledger.Edge, int) {
	called := destinations(edges)
	if len(called) == 0 {
		return nil, i.fail("intentions suggest: no call was seen on this host yet, so there is nothing to suggest; wait for traffic")
	}
	if len(services) == 0 {
		return edges, exitOK
	}
	for _, name := range services {
		if !slices.Contains(called, name) {
			return nil, i.fail("intentions suggest: no call of %q was seen on this host; calls were seen of %s", name, printable(strings.Join(called, ", ")))
		}
	}
	return slices.DeleteFunc(slices.Clone(edges), func(e ledger.Edge) bool { return !slices.Contains(services, e.Destination) }), exitOK
}

func (i invocation) writeSuggestions(suggestions []rehearse.Suggestion, dir string) int {
	made := 0
	code := exitOK
	for _, s := range suggestions {
		for _, n := range s.Notes {
			i.note(s.Destination + ": " + n)
		}
		if s.HCL == "" {
			code = exitFailed
			continue
		}
		text, err := hcl.Format([]byte(s.HCL))
		if err != nil {
			code = i.fail("intentions suggest: %s: %s", printable(s.Destination), printable(err.Error()))
			continue
		}
		made++
		if dir == "" {
			if made > 1 {
				_, _ = fmt.Fprintln(i.stdout)
			}
			_, _ = i.stdout.Write(text)
			continue
		}
		if strings.ContainsAny(s.Destination, "/\\\x00") || strings.HasPrefix(s.Destination, ".") {
			code = i.fail("intentions suggest: %q is no name for a file", s.Destination)
			continue
		}
		path := filepath.Join(dir, s.Destination+".hcl")
		if err := replaceFile(path, text, 0o644); err != nil {
			return i.fail("intentions suggest: %v", err)
		}
		_, _ = fmt.Fprintln(i.stdout, printable(path))
	}
	if made > 1 && dir == "" {
		i.note("Consul takes one config entry a file: use -dir, or name one service")
	}
	return code
}
