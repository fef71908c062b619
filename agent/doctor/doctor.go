// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package doctor looks for what keeps a sidecar from working on this host, and
// says what to do about it. It only reads and asks: it must not change anything,
// nor decide anything about traffic.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/hcl"
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
	Rights(ctx context.Context, token string, wants []consul.Right) ([]bool, error)
}

// A Vault is asked about itself.
type Vault interface {
	Survey(ctx context.Context, pkis []vault.PKI) (*vault.Survey, error)
}

// A Nomad is asked about its client.
type Nomad interface {
	Node(ctx context.Context) (*jobs.Node, error)
}

// Options are what there is to look at.
type Options struct {
	// Config is what sidecars of this host run with. It is not modified.
	Config *hcl.Config
	// Files are those that Config came from; nil for the environment.
	Files []string
	// Offline leaves out everything that would ask somebody, as in an image that is
	// being made.
	Offline bool

	// Consul returns the agent at an address, with the configured token and TLS
	// files; "" means the configured address.
	Consul func(address string) (Consul, error)
	Nomad  Nomad
	// NomadExpected says that somebody named a Nomad agent, so that a host
	// without one is not as it should be.
	NomadExpected bool
	Vault         func() (Vault, error) // nil when none is configured
	// Agent returns the status of the agent that runs; nil when none can be asked.
	Agent func(ctx context.Context) (*agent.Status, error)
	// AgentExpected says that somebody named it.
	AgentExpected bool
	// LookupHost resolves a name as this host does.
	LookupHost func(ctx context.Context, host string) ([]string, error)
	// Chains returns the rules of the packet filter as text; see [Chains].
	Chains func(ctx context.Context) (string, error)

	Root fs.FS // of this machine: /proc, and the folders of programs
	// Sockets are the well-known sockets of Consul that exist.
	Sockets []nomad.Socket
	Now     func() time.Time
}

// Sockets returns the well-known sockets of Consul that this host has.
func Sockets() []nomad.Socket { return nomad.Sockets(nomad.WellKnownSockets()) }

// eachWithin bounds what is asked of one server. All are asked at once.
const eachWithin = 3 * time.Second

// Examine runs every check, in the order in which a sidecar would need what it
// looks at. It takes about [eachWithin], and twice that on a Nomad client.
func Examine(ctx context.Context, o Options) []Finding {
	p := patient{Options: o}
	p.ask(ctx)
	p.process, p.processErr = findAgent(o.Root, p.node)

	out := []Finding{p.consulAgent(), p.consulToken(), p.consulConnect()}
	out = append(out, p.consulChecks()...)
	out = append(out, p.consulRights()...)
	out = append(out, p.roots()...)
	out = append(out, p.vaultFindings()...)
	out = append(out, p.nomadFindings(ctx)...)
	out = append(out, p.consulClock(), p.vaultClock())
	out = append(out, p.running()...)
	out = append(out, p.names()...)
	out = append(out, p.files()...)
	out = append(out, p.ports()...)
	out = append(out, p.portMappings()...)
	return append(out, p.redirection(), p.openFiles(), p.memory())
}

// A patient is everything that was learnt before the checks judge it.
type patient struct {
	Options
	consul     *consul.Survey // nil with consulErr
	consulErr  error
	consulSkew time.Duration
	rights     []tokenRights
	vault      *vault.Survey // nil with vaultErr, and without Vault
	vaultErr   error
	vaultSkew  time.Duration
	node       *jobs.Node // nil with nodeErr
	nodeErr    error
	process    process
	processErr error         // why process is empty
	agent      *agent.Status // nil with agentErr
	agentErr   error
	lookups    []lookup
	chains     string
	chainsErr  error
}

// errOffline is why nobody was asked.
var errOffline = errors.New("not asked: -offline")

// ask asks everybody at once.
func (p *patient) ask(ctx context.Context) {
	if p.Offline {
		p.consulErr, p.vaultErr, p.nodeErr, p.agentErr = errOffline, errOffline, errOffline, errOffline
		p.chains, p.chainsErr = p.askChains(ctx) // of the kernel, which is here
		return
	}
	var all sync.WaitGroup
	for _, one := range []func(context.Context){
		p.askConsul, p.askVault, p.askNames,
		func(ctx context.Context) { p.node, p.nodeErr = p.Nomad.Node(ctx) },
		func(ctx context.Context) { p.agent, p.agentErr = p.askAgent(ctx) },
		func(ctx context.Context) { p.chains, p.chainsErr = p.askChains(ctx) },
	} {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, eachWithin)
			defer cancel()
			one(ctx)
		})
	}
	all.Wait()
}

func (p *patient) askConsul(ctx context.Context) {
	p.consul, p.consulErr = p.survey(ctx, "")
	if p.consul == nil {
		return
	}
	p.consulSkew = p.consul.Date.Sub(p.Now())
	if p.consul.Token != nil && !p.consul.Token.Disabled {
		p.askRights(ctx)
	}
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

func (p *patient) askVault(ctx context.Context) {
	if p.Vault == nil {
		return
	}
	client, err := p.Vault()
	if err != nil {
		p.vaultErr = err
		return
	}
	if p.vault, p.vaultErr = client.Survey(ctx, p.pkis()); p.vault != nil {
		p.vaultSkew = p.vault.Date.Sub(p.Now())
	}
}

func (p *patient) askAgent(ctx context.Context) (*agent.Status, error) {
	if p.Agent == nil {
		return nil, errors.New("no admin address is known")
	}
	return p.Agent(ctx)
}

func (p *patient) nomadFindings(ctx context.Context) []Finding {
	if p.node == nil {
		return []Finding{p.noNomad()}
	}
	out := []Finding{p.nomadAgent()}
	if p.node.ID != "" {
		out = append(out, p.nomadConsul(), p.nomadBridge(), p.drivers(), p.reach(ctx), p.hookProgram(), p.outriderProgram(), p.iptables(), p.forwarding(), p.transparent())
	}
	return out
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

func (p *patient) vaultClock() Finding {
	const check = "clock of Vault"
	switch {
	case p.Vault == nil:
		return Finding{check, Skipped, "no Vault is configured", ""}
	case p.vault == nil || p.vault.Date.IsZero():
		return Finding{check, Skipped, "Vault has not told its time", ""}
	}
	return clock(check, p.vaultSkew)
}

func clock(check string, skew time.Duration) Finding {
	// The header has whole seconds, and the answer took its way.
	skew = skew.Abs().Round(time.Second)
	if skew > maxSkew {
		return Finding{check, Warn, fmt.Sprintf("it is %s apart from the clock of this host", skew), "keep the clocks of all hosts together, for example with chrony: leaves and tokens are valid by the clock"}
	}
	return Finding{check, OK, fmt.Sprintf("it is %s apart from the clock of this host", skew), ""}
}
