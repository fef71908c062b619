// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/limits"
)

const (
	// maxRules bounds the text of the rules of a packet filter.
	maxRules = 8 << 20
	// fewFiles and littleMemory are what a small sidecar can do with.
	fewFiles     = 4096
	littleMemory = 64 << 20
)

// errNoFilter says that nothing here could have redirected anything.
var errNoFilter = errors.New("neither nft nor iptables-save is here")

// Chains returns the rules for address translation of this network, as the
// programs of the system print them, which is all that they are asked for. They are
// looked for where the system has them only, and given no environment. The error is
// that there are none, or why they cannot tell.
func Chains(ctx context.Context) (string, error) {
	var text bytes.Buffer
	asked, failed := 0, error(nil)
	for _, args := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save", "-t", "nat"}, {"ip6tables-save", "-t", "nat"}} {
		program := systemProgram(args[0])
		if program == "" {
			continue
		}
		asked++
		var problem bytes.Buffer
		cmd := exec.CommandContext(ctx, program, args[1:]...) //nolint:gosec // a fixed list of programs of the system
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
		cmd.WaitDelay = time.Second
		cmd.Stdout, cmd.Stderr = &bounded{&text, maxRules}, &bounded{&problem, 1 << 10}
		if err := cmd.Run(); err != nil {
			failed = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(problem.String()))
		}
	}
	switch {
	case asked == 0:
		return "", errNoFilter
	case text.Len() == 0 && failed != nil:
		return "", failed
	}
	return text.String(), nil
}

func systemProgram(name string) string {
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"} {
		if info, err := os.Stat(dir + name); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return dir + name
		}
	}
	return ""
}

// bounded keeps the beginning of what is written.
type bounded struct {
	to   *bytes.Buffer
	left int
}

func (b *bounded) Write(text []byte) (int, error) {
	n := min(len(text), b.left)
	b.to.Write(text[:n])
	b.left -= n
	return len(text), nil
}

func (p *patient) askChains(ctx context.Context) (string, error) {
	if p.Chains == nil {
		return "", errNoFilter
	}
	return p.Chains(ctx)
}

// redirection looks for rules of "consul connect redirect-traffic", or of the CNI
// plugin, that lead traffic to a proxy which is not there.
func (p *patient) redirection() Finding {
	const check = "traffic redirection"
	if p.chainsErr != nil {
		return Finding{check, Skipped, p.chainsErr.Error() + map[bool]string{true: "; run this as root"}[!errors.Is(p.chainsErr, errNoFilter)], ""}
	}
	chains := regexp.MustCompile(`\bCONSUL_(?:PROXY|DNS)_[A-Z_]+`).FindAllString(p.chains, -1)
	slices.Sort(chains)
	chains = slices.Compact(chains)
	if len(chains) == 0 {
		return Finding{check, OK, "no rule of this network redirects traffic to a sidecar", ""}
	}
	open, dead := sockets(p.Root), []string{}
	for _, port := range redirectedTo(p.chains) {
		if !slices.ContainsFunc(open, func(s socket) bool { return s.port == port }) {
			dead = append(dead, strconv.Itoa(port))
		}
	}
	if len(dead) == 0 {
		return Finding{check, OK, "there are " + strings.Join(chains, ", ") + ", and somebody listens where they lead", ""}
	}
	return Finding{check, Fail, fmt.Sprintf("%s lead traffic to port %s, where nobody listens: a sidecar that is gone has left them", strings.Join(chains, ", "), strings.Join(dead, " and ")),
		"start the sidecar, or remove them: iptables-save | grep -v -E 'CONSUL_(PROXY|DNS)_' | iptables-restore (and ip6tables likewise)"}
}

// redirectedTo are the ports to which chains of Consul redirect: "REDIRECT
// --to-ports 15001" of iptables, "redirect to :15001" of nft.
func redirectedTo(rules string) (out []int) {
	to := regexp.MustCompile(`--to-ports? (\d+)|redirect to :(\d+)`)
	ours := false // within a chain of Consul, as nft nests them
	for line := range strings.SplitSeq(rules, "\n") {
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "chain ") {
			ours = strings.HasPrefix(trimmed, "chain CONSUL_")
		}
		if !ours && !strings.Contains(line, "CONSUL_") {
			continue
		}
		for _, m := range to.FindAllStringSubmatch(line, -1) {
			if port, err := strconv.Atoi(m[1] + m[2]); err == nil && !slices.Contains(out, port) {
				out = append(out, port)
			}
		}
	}
	return out
}

// openFiles looks at the limit of the agent where it can be seen, else at that of
// this process, which began in the same place when it was started by the same.
func (p *patient) openFiles() Finding {
	const check = "open files"
	whose, dir := "this process", "proc/self"
	if pid := p.agentProcess(); pid > 0 {
		whose, dir = fmt.Sprintf("the agent, process %d,", pid), fmt.Sprintf("proc/%d", pid)
	}
	text, err := fs.ReadFile(p.Root, dir+"/limits")
	if err != nil {
		return Finding{check, Skipped, "the limits of " + whose + " cannot be read", ""}
	}
	_, line, _ := strings.Cut(string(text), "Max open files")
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return Finding{check, Skipped, "the limits of " + whose + " name no open files", ""}
	}
	// A program in Go raises the first of them, the soft one, to the second.
	hard, err := strconv.Atoi(fields[1])
	if err != nil {
		return Finding{check, OK, whose + " may have any number", ""}
	}
	evidence := fmt.Sprintf("%s may have %d, enough for %d connections at once", whose, hard, limits.Pairs(hard))
	if used, err := fs.ReadDir(p.Root, dir+"/fd"); err == nil && whose != "this process" {
		evidence += fmt.Sprintf(", and has %d", len(used))
		if len(used) > hard/10*9 {
			return Finding{check, Fail, evidence, "raise LimitNOFILE of the unit, or see who holds so many connections: \"outrider status\""}
		}
	}
	if hard < fewFiles {
		return Finding{check, Warn, evidence, "raise LimitNOFILE of the unit (ulimit -n)"}
	}
	return Finding{check, OK, evidence, ""}
}

// agentProcess is the ID of the process that has an inbound listener; 0 when it is
// not to be seen.
func (p *patient) agentProcess() int {
	for _, b := range p.binds() {
		pid, err := owner(p.Root, listeners(p.Root, b.port))
		if err == nil && p.programOf(pid) == "outrider" {
			return pid
		}
	}
	return 0
}

// memory looks at what the system gives.
func (p *patient) memory() Finding {
	const check = "memory"
	memory, err := limits.ReadMemory(p.Root)
	machine := limits.MachineMemory(p.Root)
	switch {
	case memory.Bytes > 0 && memory.Bytes < littleMemory:
		return Finding{check, Warn, fmt.Sprintf("%s gives this process %d MB", memory.From, memory.Bytes>>20), "give at least 64 MB; \"outrider status\" shows what connections hold"}
	case machine == 0 && err != nil:
		return Finding{check, Skipped, err.Error(), ""}
	case machine > 0 && machine < littleMemory:
		return Finding{check, Warn, fmt.Sprintf("this machine has %d MB", machine>>20), "a sidecar needs about 64 MB"}
	}
	given := "no cgroup limits this process"
	if memory.Bytes > 0 {
		given = fmt.Sprintf("%s gives this process %d MB", memory.From, memory.Bytes>>20)
	}
	return Finding{check, OK, fmt.Sprintf("%s; this machine has %d MB", given, machine>>20), ""}
}
