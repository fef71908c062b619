// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dist_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A host stands in for the machine that a package is installed on: programs that
// write down how they are called, and directories of its own.
type host struct {
	dir string
	// codes is with what a call ends, by its beginning; 0 else.
	codes map[string]string
	// without are programs that the host lacks.
	without []string
	booted  bool // systemd runs
	// configured is with a file that somebody put there before.
	configured bool
}

const recorder = `#!/bin/sh
call="$(basename "$0")"
for arg; do call="$call $arg"; done
echo "$call" >>"$CALLS"
case "$call" in
CODES
esac
exit 0
`

// run runs one script and returns the calls it made, without questions, and what
// it said.
func (h host) run(t *testing.T, script string, args ...string) (calls []string, said string, err error) {
	t.Helper()
	bin, log := filepath.Join(h.dir, "bin"), filepath.Join(h.dir, "calls")
	write(t, log, "", 0o600)
	var codes strings.Builder
	codes.WriteString("\"dpkg-statoverride \"*) exit 1 ;;\n") // nothing is overridden
	for call, code := range h.codes {
		codes.WriteString("\"" + call + "\"*) exit " + code + " ;;\n")
	}
	for _, name := range []string{"systemctl", "deb-systemd-helper", "dpkg-statoverride", "outrider", "chown", "getent", "systemd-sysusers", "useradd", "groupadd"} {
		if !slices.Contains(h.without, name) {
			write(t, filepath.Join(bin, name), strings.Replace(recorder, "CODES\n", codes.String(), 1), 0o755)
		}
	}
	for _, name := range []string{"sh", "basename", "rm", "cat"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	text := read(t, filepath.Join("scripts", script))
	for _, path := range []string{"/run/systemd/system", "/usr/sbin/policy-rc.d", "/var/lib/outrider", "/var/log/outrider", "/etc/outrider.d", "/etc/systemd/system"} {
		text = strings.ReplaceAll(text, path, h.dir+path)
	}
	if h.booted {
		if err := os.MkdirAll(h.dir+"/run/systemd/system", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if h.configured {
		write(t, h.dir+"/etc/outrider.d/web.hcl", "", 0o640)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "sh"), append([]string{"-c", text, script}, args...)...)
	cmd.Env = []string{"PATH=" + bin, "CALLS=" + log}
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(read(t, log)) {
		call := strings.ReplaceAll(strings.TrimSpace(line), h.dir, "")
		switch {
		case strings.HasPrefix(call, "getent "), strings.HasPrefix(call, "dpkg-statoverride "), strings.Contains(call, " --quiet "), call == "systemctl daemon-reload":
			continue
		}
		calls = append(calls, call)
	}
	return calls, string(out), err
}

func TestScriptsDoWhatEachMomentNeeds(t *testing.T) {
	t.Parallel()
	const notActive, disabled = "systemctl is-active", "systemctl is-enabled"
	owned := []string{"chown -h root:outrider /etc/outrider.d", "chown -h outrider:outrider /var/lib/outrider"}
	enabled := []string{"deb-systemd-helper unmask outrider.service", "deb-systemd-helper enable outrider.service"}
	start := "systemctl --no-block start outrider.service"
	for name, tc := range map[string]struct {
		script string
		args   []string
		host   host
		want   []string
		says   string
	}{
		"deb, first install": {
			"postinstall.sh", []string{"configure", ""}, host{booted: true, codes: map[string]string{notActive: "3"}},
			slices.Concat(owned, enabled, []string{start}), "nothing runs yet; describe a service",
		},
		"deb, installed where the configuration is already": {
			"postinstall.sh", []string{"configure", ""}, host{booted: true, configured: true, codes: map[string]string{notActive: "3"}},
			slices.Concat(owned, enabled, []string{start}), "",
		},
		"deb, first install where the policy forbids starts": {
			"postinstall.sh", []string{"configure", ""}, host{booted: true, codes: map[string]string{notActive: "3", "policy-rc.d": "101"}},
			slices.Concat(owned, enabled, []string{"policy-rc.d outrider start"}), "nothing runs yet; describe a service",
		},
		"deb, into an image": {
			"postinstall.sh", []string{"configure", ""}, host{}, slices.Concat(owned, enabled), "",
		},
		"deb, disabled by the administrator": {
			"postinstall.sh", []string{"configure", "1.2.2"},
			host{booted: true, codes: map[string]string{notActive: "3", disabled: "1", "deb-systemd-helper --quiet was-enabled": "1"}},
			[]string{"deb-systemd-helper unmask outrider.service", "deb-systemd-helper update-state outrider.service"}, "",
		},
		"deb, upgrade of a running service": {
			"postinstall.sh", []string{"configure", "1.2.2"}, host{booted: true}, slices.Concat(enabled, []string{"outrider upgrade"}), "",
		},
		"deb, upgrade that the running agent took back": {
			"postinstall.sh", []string{"configure", "1.2.2"}, host{booted: true, codes: map[string]string{"outrider upgrade": "3"}},
			slices.Concat(enabled, []string{"outrider upgrade"}), "the old version runs on",
		},
		"deb, upgrade that the new version cannot take over": {
			"postinstall.sh", []string{"configure", "1.2.2"}, host{booted: true, codes: map[string]string{"outrider upgrade": "1"}},
			slices.Concat(enabled, []string{"outrider upgrade", "outrider validate /etc/outrider.d", "systemctl --no-block try-restart outrider.service"}), "",
		},
		"deb, upgrade to a version that would not start": {
			"postinstall.sh", []string{"configure", "1.2.2"},
			host{booted: true, codes: map[string]string{"outrider upgrade": "1", "outrider validate": "1"}},
			slices.Concat(enabled, []string{"outrider upgrade", "outrider validate /etc/outrider.d"}), "the old version runs on",
		},
		"deb, upgrade where the policy forbids restarts": {
			"postinstall.sh", []string{"configure", "1.2.2"}, host{booted: true, codes: map[string]string{"policy-rc.d": "101"}},
			slices.Concat(enabled, []string{"policy-rc.d outrider restart"}), "the old version runs on",
		},
		"deb, an upgrade is taken back": {"postinstall.sh", []string{"abort-upgrade", "1.2.4"}, host{booted: true}, nil, ""},
		"rpm, first install": {
			"postinstall.sh", []string{"1"}, host{booted: true, codes: map[string]string{notActive: "3"}, without: []string{"deb-systemd-helper", "dpkg-statoverride"}},
			slices.Concat(owned, []string{"systemctl preset outrider.service"}), "nothing runs yet; describe a service",
		},
		"rpm, upgrade of a running service": {
			"postinstall.sh", []string{"2"}, host{booted: true, without: []string{"deb-systemd-helper", "dpkg-statoverride"}}, []string{"outrider upgrade"}, "",
		},
		"rpm, upgrade of a stopped service": {
			"postinstall.sh", []string{"2"}, host{booted: true, codes: map[string]string{notActive: "3"}, without: []string{"deb-systemd-helper", "dpkg-statoverride"}}, nil, "",
		},
		"deb, upgrade, old package":   {"preremove.sh", []string{"upgrade", "1.2.4"}, host{booted: true}, nil, ""},
		"rpm, upgrade, old package":   {"preremove.sh", []string{"1"}, host{booted: true}, nil, ""},
		"deb, removal":                {"preremove.sh", []string{"remove"}, host{booted: true}, []string{"systemctl stop outrider.service"}, ""},
		"rpm, removal":                {"preremove.sh", []string{"0"}, host{booted: true}, []string{"systemctl stop outrider.service", "systemctl disable outrider.service"}, ""},
		"deb, after removal":          {"postremove.sh", []string{"remove"}, host{booted: true}, nil, ""},
		"deb, purge":                  {"postremove.sh", []string{"purge"}, host{booted: true}, []string{"deb-systemd-helper purge outrider.service"}, ""},
		"user exists":                 {"preinstall.sh", []string{"install"}, host{}, nil, ""},
		"user is made by systemd":     {"preinstall.sh", []string{"install"}, host{codes: map[string]string{"getent": "2"}}, []string{"systemd-sysusers -"}, ""},
		"user is made without it":     {"preinstall.sh", []string{"1"}, host{codes: map[string]string{"getent": "2"}, without: []string{"systemd-sysusers"}}, []string{"groupadd --system outrider", "useradd --system --gid outrider --no-create-home --home-dir /var/lib/outrider --shell /usr/sbin/nologin --comment Outrider service mesh sidecar outrider"}, ""},
		"deb, an installation failed": {"preinstall.sh", []string{"abort-upgrade", "1.2.4"}, host{codes: map[string]string{"getent": "2"}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.host.dir = t.TempDir()
			if code, ok := tc.host.codes["policy-rc.d"]; ok {
				policy := strings.Replace(recorder, "CODES\n", "*) exit "+code+" ;;\n", 1)
				write(t, tc.host.dir+"/usr/sbin/policy-rc.d", policy, 0o755)
			}
			calls, said, err := tc.host.run(t, tc.script, tc.args...)
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			if diff := cmp.Diff(tc.want, calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if tc.says == "" && said != "" || !strings.Contains(said, tc.says) {
				t.Errorf("says %q, want %q", said, tc.says)
			}
		})
	}
}

func TestWithoutAWayToMakeTheUserTheInstallationFailsInWords(t *testing.T) {
	t.Parallel()
	h := host{dir: t.TempDir(), codes: map[string]string{"getent": "2"}, without: []string{"systemd-sysusers", "useradd"}}
	_, said, err := h.run(t, "preinstall.sh", "install")
	if err == nil || !strings.Contains(said, "make it and its group, then install again") {
		t.Errorf("%v: %q", err, said)
	}
}

func TestPurgeLeavesNothingAndRemovalLeavesAll(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		left bool
	}{{[]string{"remove"}, true}, {[]string{"upgrade", "1.2.4"}, true}, {[]string{"0"}, true}, {[]string{"1"}, true}, {[]string{"purge"}, false}} {
		h := host{dir: t.TempDir()}
		kept := []string{"/etc/outrider.d/consul.token", "/var/lib/outrider/state", "/var/log/outrider/access.log", "/etc/systemd/system/multi-user.target.wants/outrider.service"}
		for _, path := range kept {
			write(t, h.dir+path, "", 0o600)
		}
		if _, said, err := h.run(t, "postremove.sh", tc.args...); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		for _, path := range kept {
			if _, err := os.Lstat(h.dir + path); (err == nil) != tc.left {
				t.Errorf("%v: %s is left: %v", tc.args, path, err == nil)
			}
		}
	}
}

func TestScriptsAreForAnyShellAndReachNothingOutside(t *testing.T) {
	t.Parallel()
	for name, script := range debOf(t, "amd64").scripts {
		out, err := exec.CommandContext(t.Context(), "sh", "-n", "-c", script).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, word := range []string{"curl", "wget", "http:", "https:", "apt-get", "dnf", "yum"} {
			if strings.Contains(script, word) {
				t.Errorf("%s names %s", name, word)
			}
		}
	}
}
