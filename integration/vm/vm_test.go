// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	configFile  = "/etc/outrider.d/web.hcl" // the one file that its owner writes
	exampleFile = "/etc/outrider.d/outrider.hcl.example"

	mostBinary   = 25 << 20        // bytes of the stripped binary
	mostMemory   = 25 << 20        // bytes resident while idle
	mostStart    = time.Second     // from start to ready, once Consul answers
	mostExposure = 2.5             // of systemd-analyze security, 0 to 10
	restartPace  = 5 * time.Second // RestartSec of the unit
)

// owner is a machine in the mesh, in the hands of somebody who read README.md.
type owner struct {
	*machine
	lab *lab
	deb string // the old package, in /root
}

// The life of a machine in the mesh, in the order in which it happens: what one
// step leaves is what the next one finds.
func TestOnAMachine(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	o := &owner{lab: startLab(t, program(t))}
	o.lab.equip(t, r)
	o.lab.intend(t, "allow", "web", "api")
	o.lab.intend(t, "allow", "api", "web")
	o.deb = r.put(t, built(t, "old", ".deb"))[0]
	o.machine = bootMachine(t, r)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"ThePagesCommandsLeadFromDpkgToTheFirstAllowedCall", o.followsReadme},
		{"AnIntentionThatDeniesEndsTheCalls", o.obeysIntentions},
		{"SystemdVerifiesTheUnitAndFindsItHardlyExposed", o.isHardened},
		{"AReloadAppliesTheConfigurationAndABadOneFailsAndChangesNothing", o.reloads},
		{"StartMemoryAndSizeKeepWithinTheirBounds", o.isSmall},
		{"SecretsMayComeFromSystemd", o.usesCredentials},
		{"EachMistakeIsOneSentenceInTheJournal", o.saysWhatIsWrong},
		{"AHungAgentIsReplaced", o.isWatched},
		{"UpgradesDropNothing", o.upgrades},
		{"RemovalDeregistersAndPurgeLeavesNothing", o.goes},
		{"TheOtherPackageDoesTheSame", o.livesWithRPM},
	} {
		if !t.Run(step.name, step.run) && o.pid(t) == 0 {
			t.Fatal("nothing runs, and what comes next needs it")
		}
	}
}

// callsPass wants a call of web's to pass.
func (o *owner) callsPass(t *testing.T) {
	t.Helper()
	until(t, "web reaches api", func() error { return call(t, upstreamTo, "api") })
}

// isCalled wants a call of api's to pass, which after a start takes until Consul
// has looked at the sidecar.
func (o *owner) isCalled(t *testing.T) {
	t.Helper()
	until(t, "api reaches web", func() error { return call(t, apiToWebAddr, "web") })
}

func (o *owner) followsReadme(t *testing.T) {
	until(t, "api is healthy in Consul", func() error { return o.lab.passing(t, "api") })
	began, edited, ran := time.Now(), 0, 0
	for _, b := range readmeBlocks(t) {
		switch b.language {
		case "sh":
			for _, command := range b.commands() {
				out, err := o.try(command)
				t.Logf("# %s\n%s", command, out)
				switch {
				case err != nil:
					t.Fatal(err)
				case strings.HasPrefix(command, "dpkg -i"):
					if !strings.Contains(out, "nothing runs yet; describe a service in "+configFile) {
						t.Error("dpkg does not say what to do next")
					}
					o.waitsForConfiguration(t)
				case strings.HasPrefix(command, "curl") && strings.HasSuffix(out, "api"):
					t.Logf("from dpkg to the first allowed call: %v", time.Since(began).Round(10*time.Millisecond))
					ran++
				}
			}
		case "hcl":
			edited++
			o.write(t, configFile, b.text, 0o644) // as an editor of root's does
		default:
			t.Errorf("README.md has a block in %q, which nobody runs", b.language)
		}
	}
	if edited != 1 || ran != 1 {
		t.Errorf("README.md edits %d files and calls %d times, want one of each", edited, ran)
	}
	o.callsPass(t)
	o.isCalled(t)
	if got := slices.Sorted(maps.Keys(o.lab.registered(t))); !slices.Equal(got, []string{"api", "api-sidecar-proxy", "web", "web-sidecar-proxy"}) {
		t.Errorf("Consul has the services %v", got)
	}
	out := o.run(t, "outrider status")
	if !strings.Contains(out, "from vault connect-intermediate/mesh-web") {
		t.Errorf("the leaf is not from Vault:\n%s", out)
	}
	for name, secret := range o.lab.credentials {
		if name != "vault.role-id" && strings.Contains(o.run(t, "journalctl --no-pager"), secret) {
			t.Errorf("%s is in the journal", name)
		}
	}
}

// waitsForConfiguration wants a fresh installation to be at rest and to say so,
// also when somebody starts it.
func (o *owner) waitsForConfiguration(t *testing.T) {
	t.Helper()
	o.run(t, "systemctl start outrider")
	for name, want := range map[string]string{"ActiveState": "inactive", "Result": "success", "ConditionResult": "no", "NRestarts": "0"} {
		if got := o.property(t, name); got != want {
			t.Errorf("after the installation %s is %s, want %s", name, got, want)
		}
	}
	if out := o.run(t, "systemctl status outrider.service || test $? = 3"); !strings.Contains(out, "/etc/outrider.d/*.hcl was not met") {
		t.Errorf("a fresh installation does not say what it waits for:\n%s", out)
	}
	if state := o.run(t, "systemctl is-system-running"); state != "running" {
		t.Errorf("the system is %s", state)
	}
}

func (o *owner) obeysIntentions(t *testing.T) {
	o.lab.intend(t, "deny", "api", "web")
	until(t, "calls are denied", func() error {
		if call(t, apiToWebAddr, "web") == nil {
			return fmt.Errorf("one passed")
		}
		return nil
	})
	if out := o.run(t, "outrider status"); !strings.Contains(out, "intention_denied") {
		t.Errorf("the status does not say why:\n%s", out)
	}
	o.lab.intend(t, "allow", "api", "web")
	o.isCalled(t)
}

func (o *owner) isHardened(t *testing.T) {
	// Manual pages are looked for with a program that this machine does not have.
	if out := o.run(t, "systemd-analyze verify --man=no outrider.service 2>&1"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	out := o.run(t, "systemd-analyze security --no-pager outrider.service | tail -n 1")
	_, rest, _ := strings.Cut(out, "outrider.service: ")
	number, _, _ := strings.Cut(rest, " ")
	exposure, err := strconv.ParseFloat(number, 64)
	if err != nil || exposure > mostExposure {
		t.Errorf("systemd-analyze security says %q, want at most %v", out, mostExposure)
	}
	t.Logf("exposure level: %v of 10, at most %v", exposure, mostExposure)
	for kind, want := range map[string]string{"Uid": "0", "Gid": "0"} {
		if got := statusOf(t, o.pid(t), kind); got == want {
			t.Errorf("the agent runs as root (%s)", kind)
		}
	}
	for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"} {
		if got := strings.Trim(statusOf(t, o.pid(t), set), "0"); got != "" {
			t.Errorf("the agent has capabilities: %s %s", set, got)
		}
	}
	// Another user of the machine.
	o.run(t, "useradd --no-create-home stranger")
	for _, command := range []string{
		"cat " + configFile, "cat /etc/outrider.d/consul.token", "ls /etc/outrider.d", "ls /var/lib/outrider",
		"outrider status", "outrider upgrade", "curl --fail --silent --unix-socket /run/outrider/admin.sock http://admin/live",
	} {
		if out, err := o.try("setpriv --reuid stranger --clear-groups --regid stranger " + command); err == nil {
			t.Errorf("any user of the machine can %s: %s", command, out)
		}
	}
}

// statusOf is the first value that /proc says of a process.
func statusOf(t *testing.T, pid int, key string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n"+key+":")
	line, _, _ := strings.Cut(rest, "\n")
	if values := strings.Fields(line); found && len(values) > 0 {
		return values[0]
	}
	t.Fatalf("/proc says nothing of %s", key)
	return ""
}

func (o *owner) reloads(t *testing.T) {
	good := o.run(t, "cat "+configFile)
	pid := o.pid(t)
	second := strings.Replace(good, "        upstreams {", "        upstreams {\n          destination_name = \"db\"\n          local_bind_port  = 9192\n        }\n        upstreams {", 1)
	o.edit(t, second)
	o.run(t, "systemctl reload outrider")
	until(t, "the new upstream is there", func() error {
		if out, err := o.try("outrider status"); err != nil || !strings.Contains(out, "127.0.0.1:9192") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	before := o.mark(t)
	o.edit(t, strings.Replace(second, "destination_name = \"db\"", "destination_nmae = \"db\"", 1))
	o.fails(t, "systemctl reload outrider")
	journal := o.journal(t, before)
	for _, want := range []string{configFile, "destination_nmae", "destination_name"} {
		if !strings.Contains(journal, want) {
			t.Errorf("the journal does not say %q:\n%s", want, journal)
		}
	}
	// What does not ask systemd is told, too.
	before = o.mark(t)
	o.run(t, "systemctl kill --signal HUP --kill-who main outrider")
	until(t, "the journal says that the reload was refused", func() error {
		if text := o.journal(t, before); !strings.Contains(text, "the running one stays") || !strings.Contains(text, "destination_nmae") {
			return fmt.Errorf("it says %s", text)
		}
		return nil
	})
	if out := o.run(t, "outrider status"); !strings.Contains(out, "127.0.0.1:9192") {
		t.Errorf("a bad reload changed what runs:\n%s", out)
	}
	o.edit(t, second)
	o.run(t, "systemctl reload outrider")
	o.callsPass(t)
	if now := o.pid(t); now != pid || o.property(t, "ActiveState") != "active" {
		t.Errorf("reloads started the agent again: process %d, then %d", pid, now)
	}
}

// edit writes the configuration as an editor does, in place.
func (o *owner) edit(t *testing.T, text string) {
	t.Helper()
	file, err := os.OpenFile(o.path(configFile), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

func (o *owner) isSmall(t *testing.T) {
	info, err := os.Stat(o.path("/usr/bin/outrider"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stripped binary: %.1f MB, at most 25", float64(info.Size())/(1<<20))
	if info.Size() > mostBinary {
		t.Errorf("the binary has %d bytes", info.Size())
	}
	// The fastest of a few: other tests may run on the same processors.
	fastest := time.Hour
	for range 5 {
		o.run(t, "systemctl restart outrider")
		began, ready := o.monotonic(t, "ExecMainStartTimestampMonotonic"), o.monotonic(t, "ActiveEnterTimestampMonotonic")
		if fastest = min(fastest, ready-began); fastest < mostStart/2 {
			break
		}
	}
	t.Logf("from start to ready: %v, at most %v", fastest.Round(time.Millisecond), mostStart)
	if fastest > mostStart {
		t.Errorf("a start took %v at best", fastest)
	}
	o.callsPass(t)
	pid, resident := o.pid(t), 0
	until(t, "the idle agent is small", func() error {
		kilobytes, err := strconv.Atoi(statusOf(t, pid, "VmRSS"))
		if err != nil {
			return err
		}
		if resident = kilobytes << 10; resident > mostMemory {
			return fmt.Errorf("%d bytes are resident", resident)
		}
		return nil
	})
	t.Logf("resident while idle, with one service and two upstreams: %.1f MB, at most 25", float64(resident)/(1<<20))
}

func (o *owner) monotonic(t *testing.T, property string) time.Duration {
	t.Helper()
	n, err := strconv.ParseInt(o.property(t, property), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Microsecond
}

// Where systemd keeps secrets, they are in no file that Outrider owns.
func (o *owner) usesCredentials(t *testing.T) {
	before := o.run(t, "cat "+configFile)
	const ours = "/run/credentials/outrider.service/outrider."
	text := before
	for _, name := range []string{"consul.token", "vault.role-id", "vault.secret-id"} {
		o.run(t, "install -D -m 0600 /etc/outrider.d/"+name+" /etc/credstore/outrider."+name+"; rm /etc/outrider.d/"+name)
		text = strings.ReplaceAll(text, "/etc/outrider.d/"+name, ours+name)
	}
	defer func() {
		for _, name := range []string{"consul.token", "vault.role-id", "vault.secret-id"} {
			o.run(t, "install -m 0640 -g outrider /etc/credstore/outrider."+name+" /etc/outrider.d/"+name)
		}
		o.edit(t, before)
		o.run(t, "rm -r /etc/credstore; systemctl restart outrider")
		o.callsPass(t)
	}()
	o.edit(t, text)
	o.run(t, "systemctl restart outrider")
	o.callsPass(t)
	start := o.mark(t)
	// The next process has them as well.
	for _, command := range []string{"systemctl reload outrider", "outrider upgrade", "systemctl reload outrider"} {
		if out, err := o.try(command); err != nil {
			t.Errorf("%s fails: %s\n%s", command, out, o.journal(t, start))
		}
	}
	o.callsPass(t)
	if out, err := o.try("setpriv --reuid stranger --clear-groups --regid stranger cat " + ours + "consul.token"); err == nil {
		t.Errorf("any user of the machine can read the token: %s", out)
	}
}

func (o *owner) isWatched(t *testing.T) {
	// The unit's own times, shortened.
	const watchdog = 2 * time.Second
	o.run(t, dropIn(fmt.Sprintf("WatchdogSec=%v\\nTimeoutAbortSec=1s\\nRestartSec=100ms", watchdog)))
	// The process that an upgrade puts in charge is watched like the first one.
	o.run(t, "systemctl restart outrider; outrider upgrade")
	if got := o.property(t, "WatchdogUSec"); got != watchdog.String() {
		t.Fatalf("the time of the watchdog is %s", got)
	}
	pid := o.pid(t)
	alive := time.NewTimer(2 * watchdog)
	<-alive.C
	if now := o.pid(t); now != pid || o.property(t, "NRestarts") != "0" {
		t.Fatalf("an agent that works was taken for dead: process %d, then %d", pid, now)
	}
	o.run(t, "systemctl kill --signal STOP --kill-who main outrider")
	hung := time.Now()
	until(t, "another agent runs", func() error {
		if n := o.property(t, "NRestarts"); n != "1" {
			return fmt.Errorf("%s restarts", n)
		}
		return nil
	})
	o.active(t)
	o.callsPass(t)
	t.Logf("with a watchdog of %v, %v passed from the hang to the next call", watchdog, time.Since(hung).Round(100*time.Millisecond))
	o.run(t, noDropIn+"; systemctl restart outrider")
	o.callsPass(t)
}
