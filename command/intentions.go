// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/agent/rehearse"
	"github.com/outrider-mesh/outrider/connect"
)

func runIntentions(i invocation) int {
	const usage = "Usage: outrider intentions preview -f FILE... [FLAGS]\n       outrider intentions suggest [FLAGS] [SERVICE...]\n\n" +
		"Says what other intentions would do to the calls that this host has seen, and\nwhich intentions those calls need. \"-h\" behind either lists the flags.\n"
	return i.family("intentions", usage, member{"preview", runPreview}, member{"suggest", runSuggest})
}

// sight is where the calls that were seen come from, and the intentions in
// force.
type sight struct {
	admin string
	edges string // file
	from  origin
}

func (s *sight) flags(fs *flag.FlagSet) {
	fs.StringVar(&s.admin, "admin", cmp.Or(os.Getenv("OUTRIDER_ADMIN"), defaultAdmin), "`ADDRESS` of the admin API of the agent that has seen the calls (OUTRIDER_ADMIN)")
	fs.StringVar(&s.edges, "edges", "", "take the calls from `FILE`, the answer of /v1/edges or what an agent keeps, and ask no agent; the intentions in force come from -consul or -config-dir then")
	s.from.flags(fs)
}

// check returns what is wrong with the flags, "" for nothing.
func (s *sight) check() string {
	if s.from.live && len(s.from.paths) > 0 {
		return "give -consul or -config-dir, not both"
	}
	return ""
}

// elsewhere reports whether the intentions in force are not those of the agent.
func (s *sight) elsewhere() bool { return s.from.live || len(s.from.paths) > 0 }

// seen reads the edges.
func (s *sight) seen(ctx context.Context) (ledger.Edges, error) {
	if s.edges != "" {
		return ledger.Read(s.edges)
	}
	body, err := askAgent(ctx, s.admin, "/v1/edges")
	if err != nil {
		return ledger.Edges{}, err
	}
	e, err := ledger.Parse(body)
	if err != nil {
		return e, fmt.Errorf("understand the agent's answer: %w; client and agent may be of different versions", err)
	}
	return e, nil
}

// current returns what decides on the calls of services by now, by name. With
// -edges alone nothing is known.
func (i invocation) current(ctx context.Context, s sight, services []string) (map[string]rehearse.Rules, error) {
	switch {
	case s.elsewhere():
		rules, err := i.open(s.from)
		if err != nil {
			return nil, err
		}
		out := map[string]rehearse.Rules{}
		for _, name := range services {
			if out[name], err = rules(ctx, name); err != nil {
				return nil, err
			}
		}
		return out, nil
	case s.edges != "":
		return nil, nil
	}
	return snapshotRules(ctx, s.admin)
}

// snapshotRules are those of the snapshots in force. They lack the rules that
// others of the same source stand before.
func snapshotRules(ctx context.Context, admin string) (map[string]rehearse.Rules, error) {
	body, err := askAgent(ctx, admin, "/v1/snapshot")
	if err != nil {
		return nil, err
	}
	var snapshots map[string]*struct {
		Service       struct{ Name, Protocol string }
		Mesh          struct{ Normalization connect.Normalization }
		DefaultAction connect.Action
		Intentions    []connect.Intention
		JWTProviders  map[string]connect.JWTProvider
	}
	if err := json.Unmarshal(body, &snapshots); err != nil {
		return nil, fmt.Errorf("understand the agent's answer: %w; client and agent may be of different versions", err)
	}
	out := map[string]rehearse.Rules{}
	for _, s := range snapshots {
		if s == nil {
			continue
		}
		out[s.Service.Name] = rehearse.Rules{
			Intentions: s.Intentions, Default: s.DefaultAction, DefaultFrom: "the agent's snapshot",
			Protocol: connect.Protocol(s.Service.Protocol), Normalization: s.Mesh.Normalization, Providers: s.JWTProviders,
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the agent has no snapshot yet: see \"outrider status\" for what it waits for, or give -consul")
	}
	return out, nil
}

// destinations are the services on this host that were called, in order.
func destinations(edges []ledger.Edge) []string {
	var out []string
	for _, e := range edges {
		if e.Inbound() && (len(out) == 0 || out[len(out)-1] != e.Destination) {
			out = append(out, e.Destination) // they are sorted
		}
	}
	return out
}

func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}
