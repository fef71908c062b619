// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package doctor looks for what keeps a sidecar from working on this host, and
// says what to do about it. It only reads and asks: it must not change anything,
// nor decide anything about traffic.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/jobs"
)

// A State is the outcome of a check.
type State string

// The outcomes: nothing to do; works with limits that the evidence names; keeps
// sidecars from working; not looked at, and why.
const (
	OK      State = "ok"
	Warn    State = "warn"
	Fail    State = "fail"
	Skipped State = "skipped"
)

// A Finding is what one check has found.
type Finding struct {
	Check    string
	State    State
	Evidence string
	Remedy   string `json:",omitempty"` // "" when there is nothing to do
}

// Failed reports whether one of the findings is a failure.
func Failed(all []Finding) bool {
	for _, f := range all {
		if f.State == Fail {
			return true
		}
	}
	return false
}

// A Consul is asked about itself.
type Consul interface {
	Survey(ctx context.Context) (*consul.Survey, error)
}

// A Nomad is asked about its client.
type Nomad interface {
	Node(ctx context.Context) (*jobs.Node, error)
}

// Options are what there is to look at.
type Options struct {
	// Consul returns the agent at an address, with the configured token and TLS
	// files; "" means the configured address.
	Consul func(address string) (Consul, error)
	Nomad  Nomad
	// NomadExpected says that somebody named a Nomad agent, so that a host
	// without one is not as it should be.
	NomadExpected bool
	// VaultDate returns the clock of Vault; nil when no Vault is configured.
	VaultDate func(ctx context.Context) (time.Time, error)
	Root      fs.FS // of this machine: /proc, and the folders of programs
	// Sockets are the well-known sockets of Consul that exist.
	Sockets []nomad.Socket
	Now     func() time.Time
}

// Sockets returns the well-known sockets of Consul that this host has.
func Sockets() []nomad.Socket { return nomad.Sockets(nomad.WellKnownSockets()) }

// eachWithin bounds one question, of which there are about eight.
const eachWithin = 5 * time.Second

// Examine runs every check, in the order in which a sidecar would need what it
// looks at.
func Examine(ctx context.Context, o Options) []Finding {
	p := patient{Options: o}
	p.consul, p.consulErr = p.survey(ctx, "")
	asked := o.Now()
	if p.consul != nil {
		p.consulSkew = p.consul.Date.Sub(asked)
	}
	p.node, p.nodeErr = p.askNomad(ctx)
	p.process, p.processErr = findAgent(o.Root, p.node)

	out := []Finding{p.consulAgent(), p.consulToken(), p.consulConnect()}
	if p.node == nil {
		out = append(out, p.noNomad())
	} else {
		out = append(out, p.nomadAgent())
		if p.node.ID != "" {
			out = append(out, p.nomadConsul(), p.nomadBridge(), p.drivers(), p.reach(ctx), p.hookProgram(), p.outriderProgram(), p.iptables(), p.forwarding(), p.transparent())
		}
	}
	return append(out, p.consulClock(), p.vaultClock(ctx))
}

// A patient is everything that was learnt before the checks judge it.
type patient struct {
	Options
	consul     *consul.Survey // nil with consulErr
	consulErr  error
	consulSkew time.Duration
	node       *jobs.Node // nil with nodeErr
	nodeErr    error
	process    process
	processErr error // why process is empty
}

func (p *patient) survey(ctx context.Context, address string) (*consul.Survey, error) {
	client, err := p.Consul(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, eachWithin)
	defer cancel()
	return client.Survey(ctx)
}

func (p *patient) askNomad(ctx context.Context) (*jobs.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, eachWithin)
	defer cancel()
	return p.Nomad.Node(ctx)
}

// maxSkew is how far two clocks may be apart before a fresh leaf or token is not
// valid yet for somebody.
const maxSkew = 30 * time.Second

func (p *patient) consulClock() Finding {
	if p.consul == nil || p.consul.Date.IsZero() {
		return Finding{"clock of Consul", Skipped, "Consul has not told its time", ""}
	}
	return clock("clock of Consul", p.consulSkew)
}

func (p *patient) vaultClock(ctx context.Context) Finding {
	const check = "clock of Vault"
	if p.VaultDate == nil {
		return Finding{check, Skipped, "no Vault is configured", ""}
	}
	ctx, cancel := context.WithTimeout(ctx, eachWithin)
	defer cancel()
	date, err := p.VaultDate(ctx)
	if err != nil {
		return Finding{check, Skipped, err.Error(), ""}
	}
	return clock(check, date.Sub(p.Now()))
}

func clock(check string, skew time.Duration) Finding {
	// The header has whole seconds, and the answer took its way.
	skew = skew.Abs().Round(time.Second)
	if skew > maxSkew {
		return Finding{check, Warn, fmt.Sprintf("it is %s apart from the clock of this host", skew), "keep the clocks of all hosts together, for example with chrony: leaves and tokens are valid by the clock"}
	}
	return Finding{check, OK, fmt.Sprintf("it is %s apart from the clock of this host", skew), ""}
}
