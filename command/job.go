// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/jobs"
)

// maxJobText bounds what is read as a job; Nomad itself takes 1 MB of HCL.
const maxJobText = 16 << 20

// nomadWorkloads is the auth method that "nomad setup consul" makes.
const nomadWorkloads = "nomad-workloads"

func runJob(i invocation) int {
	const usage = "Usage: outrider job inject [FLAGS] FILE|-\n\n" +
		"Puts the sidecar task into every group service of a Nomad job that has a\nsidecar_service, and prints the job. \"outrider job inject -h\" lists the flags.\n"
	return i.family("job", usage, member{"inject", runInject})
}

// injectFlags is what the command line says.
type injectFlags struct {
	settings jobs.Settings
	login    loginMethod

	variables, files list
	asJSON, diff     bool
	run, detach      bool
	timeout          time.Duration
	checkIndex       uint64
	checkIndexSet    bool
}

// loginMethod is a flag whose value may be left out.
type loginMethod string

func (m *loginMethod) String() string   { return string(*m) }
func (m *loginMethod) IsBoolFlag() bool { return true }
func (m *loginMethod) Set(v string) error {
	switch v {
	case "true":
		v = nomadWorkloads
	case "false":
		v = ""
	}
	*m = loginMethod(v)
	return nil
}

func (f *injectFlags) register(fs *flag.FlagSet) {
	s := &f.settings
	*s = jobs.DefaultSettings()
	fs.StringVar(&s.Driver, "driver", s.Driver, "`DRIVER` of the sidecar task: raw_exec or exec")
	fs.StringVar(&s.Command, "command", s.Command, "`COMMAND` on the clients: outrider or its path")
	fs.StringVar(&s.User, "user", "", "`USER` of the sidecar task; the driver's when empty, nobody with transparent_proxy")
	fs.StringVar(&s.UID, "uid", "", "`UID` of -user on the clients, for transparent_proxy")
	fs.IntVar(&s.CPU, "cpu", s.CPU, "CPU in `MHZ`")
	fs.IntVar(&s.Memory, "memory", s.Memory, "memory in `MB`")
	fs.DurationVar(&s.KillTimeout, "kill-timeout", s.KillTimeout, "how long a stopped sidecar may drain")
	fs.StringVar(&s.LogLevel, "log-level", "", "trace, debug, info, warn or error")
	fs.IntVar(&s.LogMaxFiles, "log-max-files", 0, "how many log files Nomad keeps; 0 leaves it to Nomad")
	fs.IntVar(&s.LogMaxFileSize, "log-max-file-size", 0, "size of a log file in `MB`; 0 leaves it to Nomad")
	fs.StringVar(&s.ConsulAddress, "consul-http-addr", "", "CONSUL_HTTP_ADDR of the sidecar, such as unix:///run/consul/http.sock; it may hold Nomad's ${…}")
	fs.Var(&f.login, "consul-login", "log in to Consul by workload identity with this auth `METHOD`; without a value "+nomadWorkloads)
	fs.StringVar(&s.Vault.Address, "vault-addr", "", "VAULT_ADDR of the sidecar, whose leaf then comes from Vault")
	fs.StringVar(&s.Vault.PKIMount, "vault-pki-mount", "", "PKI `MOUNT` that signs the leaf")
	fs.StringVar(&s.Vault.PKIRole, "vault-pki-role", "", "PKI `ROLE` that signs the leaf; ${service} stands for the service's name")
	fs.StringVar(&s.Vault.AuthMount, "vault-auth-mount", "", "`MOUNT` of Vault's JWT auth method for Nomad")
	fs.StringVar(&s.Vault.AuthRole, "vault-auth-role", "", "`ROLE` of the login to Vault")
	fs.Var(&f.variables, "var", "`NAME=VALUE` of an input variable of the job; may be given several times")
	fs.Var(&f.files, "var-file", "`FILE` with input variables of the job; may be given several times")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON, as \"nomad job run -json\" takes it")
	fs.BoolVar(&f.diff, "diff", false, "print what changes in the text; exit 0 with and without changes")
	fs.BoolVar(&f.run, "run", false, "register the job and follow it until it runs")
	fs.BoolVar(&f.detach, "detach", false, "with -run: do not follow")
	fs.DurationVar(&f.timeout, "timeout", 15*time.Minute, "with -run: how long to follow")
	fs.Func("check-index", "with -run: register only when the job's modify index is `N`, 0 for a new job", func(v string) error {
		n, err := strconv.ParseUint(v, 10, 64)
		f.checkIndex, f.checkIndexSet = n, true
		if err != nil {
			return errors.New("give a number that is not negative")
		}
		return nil
	})
}

func runInject(i invocation) int {
	var f injectFlags
	fs := i.flags("job inject", "[FLAGS] FILE|-")
	f.register(fs)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	f.settings.ConsulLogin = string(f.login)
	switch {
	case fs.NArg() != 1:
		return i.misuse("job inject: give the file of one job behind the flags, or - for standard input")
	case f.run && (f.diff || f.asJSON):
		return i.misuse("job inject: -run registers the job, -diff and -json print it; give one of them")
	case f.diff && f.asJSON:
		return i.misuse("job inject: -diff shows the text, -json prints JSON; give one of them")
	case !f.run && (f.detach || f.checkIndexSet):
		return i.misuse("job inject: -detach and -check-index go with -run")
	}
	source, err := i.readJob(fs.Arg(0), &f)
	if err != nil {
		i.printConfigError(err)
		return exitFailed
	}
	client, err := jobs.NewClient()
	if err != nil {
		return i.fail("job inject: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	injected, err := client.InjectSource(ctx, source, f.settings)
	var refused *jobs.Refusal
	switch {
	case errors.As(err, &refused):
		for _, reason := range refused.Reasons {
			i.fail("job inject: %s: %s", source.Name, reason)
		}
		return exitFailed
	case err != nil:
		return i.fail("job inject: %v", err)
	}
	for _, notice := range injected.Changes.Notices {
		i.fail("job inject: note: %s", notice)
	}
	if f.run {
		return i.runInjected(ctx, client, injected, &f)
	}
	return i.printInjected(injected, &f)
}

// readJob reads the job and its variables.
func (i invocation) readJob(path string, f *injectFlags) (jobs.Source, error) {
	source := jobs.Source{Name: path}
	var err error
	if path == "-" {
		source.Name = "standard input"
		source.Text, err = io.ReadAll(io.LimitReader(i.stdin, maxJobText+1))
	} else {
		source.Text, err = readLimited(path)
	}
	switch {
	case err != nil:
		return source, fmt.Errorf("job inject: read the job: %w", err)
	case len(source.Text) > maxJobText:
		return source, fmt.Errorf("job inject: %s has more than %d bytes, which no job needs", source.Name, maxJobText)
	}
	source.JSON = bytes.HasPrefix(bytes.TrimSpace(source.Text), []byte("{"))
	if source.JSON {
		if len(f.variables)+len(f.files) > 0 {
			return source, fmt.Errorf("job inject: %s is JSON, which has no variables; -var and -var-file go with HCL", source.Name)
		}
		return source, nil
	}
	var files []hcl.VariableFile
	for _, name := range f.files {
		text, err := readLimited(name)
		if err != nil {
			return source, fmt.Errorf("job inject: read variables: %w", err)
		}
		files = append(files, hcl.VariableFile{Name: name, Text: text})
	}
	source.Variables, err = hcl.Variables(source.Text, os.Environ(), files, f.variables)
	return source, err
}

func readLimited(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, maxJobText+1))
}

func (i invocation) printInjected(in jobs.Injected, f *injectFlags) int {
	text, err := in.Text, in.Unwritten
	if f.asJSON {
		text, err = in.Job.JSON()
	}
	if err != nil {
		return i.fail("job inject: %v; -json prints the injected job as JSON, and -run registers it", err)
	}
	if f.diff {
		text = []byte(jobs.Diff(in.Source.Name, in.Source.Name+" with sidecars", in.Source.Text, text, colored(i.stdout)))
	}
	if _, err := i.stdout.Write(text); err != nil {
		return i.fail("job inject: write the job: %v", err)
	}
	return exitOK
}

// runInjected registers the job and follows it.
func (i invocation) runInjected(ctx context.Context, client *jobs.Client, in jobs.Injected, f *injectFlags) int {
	if in.Unwritten != nil {
		i.fail("job inject: note: Nomad keeps no text of this job: %v", in.Unwritten)
	}
	var index *uint64
	if f.checkIndexSet {
		index = &f.checkIndex
	}
	tell := func(line string) { _, _ = fmt.Fprintln(i.stdout, line) }
	reg, err := client.Register(ctx, in, index)
	if err != nil {
		return i.fail("job inject: %v", err)
	}
	tell(fmt.Sprintf("registered job %q: %d sidecar tasks put in, %d there already", in.Job.ID(), len(in.Changes.Services), in.Changes.Ready))
	if reg.Warnings != "" {
		tell("Nomad warns: " + reg.Warnings)
	}
	if f.detach {
		if reg.EvalID != "" {
			tell("evaluation " + reg.EvalID)
		}
		return exitOK
	}
	limited, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	err = client.Follow(limited, reg, tell)
	switch {
	case err == nil:
		tell(fmt.Sprintf("job %q runs", in.Job.ID()))
		return exitOK
	case ctx.Err() != nil:
		return i.fail("job inject: interrupted; job %q stays registered, \"nomad job status %s\" shows it and \"nomad job stop %s\" ends it", in.Job.ID(), in.Job.ID(), in.Job.ID())
	case limited.Err() != nil:
		return i.fail("job inject: job %q does not run after %s; it stays registered, \"nomad job status %s\" shows why it waits", in.Job.ID(), f.timeout, in.Job.ID())
	}
	return i.fail("job inject: job %q stays registered and does not run: %v", in.Job.ID(), err)
}
