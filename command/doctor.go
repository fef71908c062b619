// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/doctor"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/jobs"
)

func runDoctor(i invocation) int {
	var configs list
	var f doctorFlags
	fs := i.flags("doctor", "[-json] [-offline] [-config PATH...]")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON")
	fs.BoolVar(&f.offline, "offline", false, "ask nobody, as in an image that is being made: files, ports, limits and programs of this host only")
	fs.Var(&configs, "config", "configuration `PATH` that says what sidecars of this host need; else the environment does; may be given several times")
	fs.StringVar(&f.admin, "admin", os.Getenv("OUTRIDER_ADMIN"), "`ADDRESS` of the admin API of the agent (OUTRIDER_ADMIN); else that of the configuration, or "+defaultAdmin)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if fs.NArg() > 0 {
		return i.misuse("doctor: unexpected argument %q", fs.Arg(0))
	}
	cfg, code, ok := i.load(func() (*hcl.Config, error) {
		if len(configs) > 0 {
			return agent.NewLoader(configs...).Load(context.Background())
		}
		return agent.EnvironmentConfig()
	})
	if !ok {
		return code
	}
	options, err := f.options(cfg, configs)
	if err != nil {
		return i.fail("doctor: %v", err)
	}
	findings := doctor.Examine(context.Background(), options)
	if f.asJSON {
		text, err := json.MarshalIndent(map[string]any{"Findings": findings}, "", "  ")
		if err != nil {
			return i.fail("doctor: encode the findings: %v", err)
		}
		_, _ = i.stdout.Write(append(harmless(text), '\n'))
	} else {
		printFindings(i.stdout, findings)
	}
	if doctor.Failed(findings) {
		return exitFailed
	}
	return exitOK
}

func printFindings(out io.Writer, findings []doctor.Finding) {
	p := printer{out: out}
	counts := make(map[doctor.State]int)
	for _, f := range findings {
		counts[f.State]++
		p.line(0, "%-7s  %s: %s", f.State, f.Check, f.Evidence)
		if f.Remedy != "" {
			p.line(0, "         → %s", f.Remedy)
		}
	}
	p.line(0, "")
	p.line(0, "%d ok, %d to look at, %d failed, %d skipped", counts[doctor.OK], counts[doctor.Warn], counts[doctor.Fail], counts[doctor.Skipped])
}

type doctorFlags struct {
	asJSON, offline bool
	admin           string
}

// options are what there is to look at on this machine.
func (f doctorFlags) options(cfg *hcl.Config, files []string) (doctor.Options, error) {
	client, err := jobs.NewClient()
	if err != nil {
		return doctor.Options{}, err
	}
	admin := cmp.Or(f.admin, cfg.Admin.Address, defaultAdmin)
	o := doctor.Options{
		Config: cfg, Files: files, Offline: f.offline,
		Consul:        func(address string) (doctor.Consul, error) { return agent.ConsulClient(cfg, address) },
		Nomad:         client,
		NomadExpected: os.Getenv("NOMAD_ADDR") != "",
		Agent: func(ctx context.Context) (*agent.Status, error) {
			body, err := askAgent(ctx, admin, statusPath)
			if err != nil {
				return nil, err
			}
			s, err := readStatus(body)
			return &s, err
		},
		AgentExpected: f.admin != "",
		LookupHost:    net.DefaultResolver.LookupHost,
		Chains:        doctor.Chains,
		Root:          os.DirFS("/"),
		Sockets:       doctor.Sockets(),
		Now:           time.Now,
	}
	if cfg.Vault != nil {
		o.Vault = func() (doctor.Vault, error) { return agent.VaultClient(cfg) }
	}
	return o, nil
}
