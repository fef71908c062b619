// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dist_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/hcl"
)

const (
	unitPath    = "root/usr/lib/systemd/system/outrider.service"
	examplePath = "root/etc/outrider.d/outrider.hcl.example"
)

// unit returns the settings of the unit, those that are repeated in their order.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for line := range strings.Lines(read(t, unitPath)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && line[0] != '#' {
			out[key] = append(out[key], value)
		}
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestUnitIsExposedLittle(t *testing.T) {
	t.Parallel()
	const limit = 2.5
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=yes", unitPath).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	found := regexp.MustCompile(`Overall exposure level for outrider.service: ([0-9.]+)`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("systemd-analyze names no level:\n%s", out)
	}
	level, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("exposure level %.1f", level)
	if level > limit {
		t.Errorf("exposure level %.1f, more than %.1f:\n%s", level, limit, out)
	}
}

// Each example must be good on top of the unit, except for what is said to need a
// newer systemd.
func TestSystemdUnderstandsTheUnitAndItsExamples(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("root/usr/share/doc/outrider/examples/*.conf")
	if err != nil || len(examples) == 0 {
		t.Fatalf("examples: %v, %v", examples, err)
	}
	for _, example := range append(examples, "") {
		t.Run(filepath.Base(example), func(t *testing.T) {
			t.Parallel()
			// Programs that the unit starts are looked for at their paths.
			text := strings.ReplaceAll(read(t, unitPath), "/usr/bin/outrider", "/bin/sh")
			dir := t.TempDir()
			write(t, filepath.Join(dir, "outrider.service"), text, 0o644)
			if example != "" {
				write(t, filepath.Join(dir, "outrider.service.d", filepath.Base(example)), read(t, example), 0o644)
			}
			cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", filepath.Join(dir, "outrider.service"))
			cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
			out, err := cmd.CombinedOutput()
			var complaints []string
			for line := range strings.Lines(string(out)) {
				newer := strings.Contains(line, "RestartSteps") || strings.Contains(line, "RestartMaxDelaySec")
				if strings.Contains(line, "outrider") && (!newer || filepath.Base(example) != "backoff.conf") {
					complaints = append(complaints, line)
				}
			}
			if err != nil || len(complaints) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}

func TestUnitKeepsItsPromises(t *testing.T) {
	t.Parallel()
	settings := unit(t)
	for key, want := range map[string]string{
		"Type": "notify", "NotifyAccess": "all", "User": "outrider", "Group": "outrider",
		"ExecStart": "/usr/bin/outrider agent -config /etc/outrider.d",
		// It ends with 1 when the agent refuses the configuration; a signal could not.
		"ExecReload":      "/usr/bin/outrider reload",
		"NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes", "ProtectHome": "yes",
		"CapabilityBoundingSet": "", "AmbientCapabilities": "", "LimitCORE": "0", "MemorySwapMax": "0",
		"StateDirectory": "outrider", "StateDirectoryMode": "0700", "RuntimeDirectory": "outrider", "RuntimeDirectoryMode": "0750",
		"KillMode": "mixed", "Restart": "on-failure",
		// A program that crashes ends with 2 as well; see the unit.
		"RestartPreventExitStatus": "",
	} {
		if got := strings.Join(settings[key], "|"); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	for _, key := range []string{"MemoryMax", "CPUWeight", "TasksMax", "LimitNOFILE", "WatchdogSec", "SystemCallFilter", "LoadCredential"} {
		if len(settings[key]) == 0 {
			t.Errorf("the unit has no %s", key)
		}
	}
	pause, err := time.ParseDuration(settings["RestartSec"][0])
	if err != nil || pause < 5*time.Second || settings["StartLimitIntervalSec"][0] != "0" {
		t.Errorf("restarts after %v (%v), limit %v", pause, err, settings["StartLimitIntervalSec"])
	}
}

func TestUnitStopsLaterThanTheAgentDrains(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "web.hcl")
	write(t, path, "", 0o600)
	cfg, err := hcl.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	stop, err := time.ParseDuration(unit(t)["TimeoutStopSec"][0])
	if err != nil {
		t.Fatal(err)
	}
	drain := cfg.Drain.Propagation + cfg.Drain.Timeout
	if drain == 0 || stop < drain+10*time.Second {
		t.Errorf("systemd kills after %v, draining takes up to %v, and there is more to do", stop, drain)
	}
}

// The unit looks for what the agent reads: an example beside it is neither a
// reason to start nor in force.
func TestUnitStartsOnlyWithAConfigurationAndTheExampleIsNone(t *testing.T) {
	t.Parallel()
	glob, ok := strings.CutPrefix(strings.Join(unit(t)["ConditionPathExistsGlob"], "|"), "/etc/outrider.d/")
	// A condition that ran a program would be asked before systemd looks for the user.
	if !ok || unit(t)["ExecCondition"] != nil {
		t.Fatalf("the conditions are %q and %q", unit(t)["ConditionPathExistsGlob"], unit(t)["ExecCondition"])
	}
	for name, tc := range map[string]struct {
		file     string
		services int
	}{
		"as installed":    {"README", 0},
		"with a web.hcl":  {"web.hcl", 1},
		"another ending":  {"web.hcl.dpkg-dist", 0},
		"an editor's own": {"web.hcl~", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, file := range []string{tc.file, filepath.Base(examplePath)} {
				write(t, filepath.Join(dir, file), uncommented(read(t, examplePath)), 0o600)
			}
			cfg, err := hcl.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			found, err := filepath.Glob(filepath.Join(dir, glob))
			if err != nil {
				t.Fatal(err)
			}
			if len(cfg.Services) != tc.services || len(found) != tc.services {
				t.Errorf("the agent reads %d services, the unit finds %v, want %d", len(cfg.Services), found, tc.services)
			}
		})
	}
}

// uncommented is the example without the first mark of all lines but prose, whose
// mark has one space behind it.
func uncommented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		body, marked := strings.CutPrefix(line, "#")
		if marked && (!strings.HasPrefix(body, " ") || strings.HasPrefix(body, "  ")) {
			line = body
		}
		out.WriteString(line)
	}
	return out.String()
}

func TestExampleConfigurationIsEmptyAndCompleteOnceUncommented(t *testing.T) {
	t.Parallel()
	text := read(t, examplePath)
	for name, want := range map[string]struct {
		text     string
		services []string
	}{
		"as installed": {text, nil},
		"uncommented":  {uncommented(text), []string{"web"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "outrider.hcl")
			write(t, path, want.text, 0o600)
			cfg, err := hcl.Load(path)
			if err != nil {
				t.Fatalf("%v\n%s", err, want.text)
			}
			if cfg.Warnings != nil && want.services != nil {
				t.Errorf("warnings: %v", cfg.Warnings)
			}
			var services []string
			for _, s := range cfg.Services {
				services = append(services, s.Name)
			}
			if diff := cmp.Diff(want.services, services); diff != "" {
				t.Errorf("services (-want +got):\n%s", diff)
			}
			if (cfg.Vault != nil) != (len(services) > 0) {
				t.Errorf("vault block: %v", cfg.Vault != nil)
			}
			formatted, err := hcl.Format([]byte(want.text))
			if err != nil || string(formatted) != want.text {
				t.Errorf("the example is not in canonical form (%v):\n%s", err, cmp.Diff(want.text, string(formatted)))
			}
		})
	}
}

// A secret that the unit hands over must be one that the texts tell of, and the
// other way round.
func TestCredentialsHaveOneNameEverywhere(t *testing.T) {
	t.Parallel()
	names := unit(t)["LoadCredential"]
	texts := map[string]string{
		"the example":    read(t, examplePath),
		"outrider(1)":    unzipped(t, debOf(t, "amd64").files["/usr/share/man/man1/outrider.1.gz"].content),
		"the credential": read(t, "root/usr/share/doc/outrider/examples/credentials.conf"),
	}
	found := regexp.MustCompile(`outrider\.(?:consul|vault)\.[a-z-]+[a-z]`)
	for where, text := range texts {
		for _, name := range found.FindAllString(strings.ReplaceAll(text, `\-`, "-"), -1) {
			if !slices.Contains(names, name) {
				t.Errorf("%s names %s, which the unit does not load: %v", where, name, names)
			}
		}
	}
	for _, name := range names {
		if !strings.Contains(texts["the example"], name) || !strings.Contains(strings.ReplaceAll(texts["outrider(1)"], `\-`, "-"), name) {
			t.Errorf("%s is told of nowhere", name)
		}
	}
}

func TestUserIsTheSameInScriptAndFile(t *testing.T) {
	t.Parallel()
	line := ""
	for l := range strings.Lines(read(t, "root/usr/lib/sysusers.d/outrider.conf")) {
		if !strings.HasPrefix(l, "#") && strings.TrimSpace(l) != "" {
			line = strings.TrimSpace(l)
		}
	}
	if !strings.HasPrefix(line, "u outrider ") || !strings.Contains(read(t, "scripts/preinstall.sh"), fmt.Sprintf("echo '%s' | systemd-sysusers -", line)) {
		t.Errorf("preinstall.sh does not make the user of %q", line)
	}
}
