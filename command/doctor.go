// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/doctor"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/jobs"
)

func runDoctor(i invocation) int {
	var configs list
	fs := i.flags("doctor", "[-json] [-config PATH...]")
	asJSON := fs.Bool("json", false, "print JSON")
	fs.Var(&configs, "config", "configuration `PATH` that says where Consul and Vault are; else the environment does; may be given several times")
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
	client, err := jobs.NewClient()
	if err != nil {
		return i.fail("doctor: %v", err)
	}
	findings := doctor.Examine(context.Background(), doctor.Options{
		Consul:        func(address string) (doctor.Consul, error) { return agent.ConsulClient(cfg, address) },
		Nomad:         client,
		NomadExpected: os.Getenv("NOMAD_ADDR") != "",
		VaultDate:     vaultDate(cfg),
		Root:          os.DirFS("/"),
		Sockets:       doctor.Sockets(),
		Now:           time.Now,
	})
	if *asJSON {
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

// vaultDate returns how to read Vault's clock; nil without Vault. No secret is
// sent, and no answer but its date is used.
func vaultDate(cfg *hcl.Config) func(context.Context) (time.Time, error) {
	if cfg.Vault == nil || cfg.Vault.Address == "" {
		return nil
	}
	address := strings.TrimSuffix(cfg.Vault.Address, "/")
	return func(ctx context.Context) (time.Time, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/v1/sys/health", nil)
		if err != nil {
			return time.Time{}, fmt.Errorf("ask Vault at %s for its time: %w", address, err)
		}
		transport := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return time.Time{}, fmt.Errorf("ask Vault at %s for its time: %w", address, err)
		}
		defer func() { _ = res.Body.Close() }()
		at, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil {
			return time.Time{}, errors.New("Vault at " + address + " has not told its time")
		}
		return at, nil
	}
}
