// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A mistake of an owner, and what he finds in the journal.
type mistake struct {
	name   string
	make   string // commands that make it
	mend   string // commands that mend it
	code   string // exit code of the agent, or of systemd in its place
	says   []string
	taken  string // address that somebody else listens on meanwhile
	starts bool   // it is none: the agent serves
}

// dropIn makes commands that change one setting of the unit.
func dropIn(setting string) string {
	return "mkdir -p /run/systemd/system/outrider.service.d; printf '[Service]\\n" + setting + "\\n' >/run/systemd/system/outrider.service.d/test.conf; systemctl daemon-reload"
}

const noDropIn = "rm -r /run/systemd/system/outrider.service.d; systemctl daemon-reload"

func mistakes() []mistake {
	return []mistake{
		{
			name: "AConfigurationThatItCannotRead",
			make: "chmod 600 " + configFile, mend: "chmod 644 " + configFile,
			code: "1", says: []string{configFile, "permission denied", "chgrp"},
		},
		{
			name: "AFolderThatItCannotRead",
			make: "chmod 700 /etc/outrider.d", mend: "chmod 750 /etc/outrider.d",
			code: "1", says: []string{"/etc/outrider.d", "permission denied", "chgrp"},
		},
		{
			name: "AMisspeltWord",
			make: "sed -i 's/local_bind_port /local_bind_prot /' " + configFile,
			mend: "sed -i 's/local_bind_prot /local_bind_port /' " + configFile,
			code: "1", says: []string{configFile, "local_bind_prot", "local_bind_port"},
		},
		{
			name: "ATokenFileThatIsMissing",
			make: "mv /etc/outrider.d/consul.token /root/aside", mend: "mv /root/aside /etc/outrider.d/consul.token",
			code: "1", says: []string{"/etc/outrider.d/consul.token", "is not there", "Write the file"},
		},
		{
			name: "AnAdminAddressThatSomebodyHas",
			make: "echo 'admin { address = \"127.0.0.1:9393\" }' >/etc/outrider.d/admin.hcl", mend: "rm /etc/outrider.d/admin.hcl",
			taken: "127.0.0.1:9393",
			code:  "1", says: []string{"127.0.0.1:9393", "address already in use", "admin.address"},
		},
		{
			name: "AUserThatIsUnknown",
			make: dropIn("User=nobody-here"), mend: noDropIn,
			code: "217", says: []string{"status=217/USER"},
		},
		{
			name: "AWrongFlag",
			make: dropIn("ExecStart=\\nExecStart=/usr/bin/outrider agent -confg /etc/outrider.d"), mend: noDropIn,
			code: "2", says: []string{"-confg", "-config"},
		},
		{
			name: "AStateDirectoryOfSomebodyElseIsMended",
			make: "chown -R root:root /var/lib/outrider; chmod 777 /var/lib/outrider", mend: "true",
			starts: true,
		},
		{
			name: "AFullDiskBelowTheStateKeepsNobodyFromServing",
			make: "mount -t tmpfs -o size=4k,mode=700 full /var/lib/outrider; chown outrider:outrider /var/lib/outrider; ! cat /dev/zero >/var/lib/outrider/filler 2>/dev/null",
			mend: "umount /var/lib/outrider", starts: true,
		},
		{
			name: "ARunDirectoryWithoutRoom",
			make: "mkdir -p /run/outrider; mount -t tmpfs -o nr_inodes=1,mode=750 full /run/outrider; chown outrider:outrider /run/outrider",
			mend: "umount /run/outrider",
			code: "1", says: []string{"/run/outrider/admin.sock", "no space left on device"},
		},
	}
}

func (o *owner) saysWhatIsWrong(t *testing.T) {
	for _, m := range mistakes() {
		t.Run(m.name, func(t *testing.T) {
			o.run(t, "systemctl stop outrider; "+m.make)
			defer func() { o.run(t, m.mend+"; systemctl reset-failed outrider || true") }()
			if m.taken != "" {
				taken := listen(t, m.taken)
				defer taken.Close()
			}
			before := o.mark(t)
			if m.starts {
				o.run(t, "systemctl start outrider")
				o.callsPass(t)
				if got := o.run(t, "stat --format '%a %U:%G' /var/lib/outrider"); got != "700 outrider:outrider" {
					t.Errorf("the state directory is %s", got)
				}
				o.run(t, "systemctl stop outrider")
				return
			}
			if _, err := o.try("timeout 20 systemctl start outrider"); err == nil {
				t.Error("systemctl start succeeds")
			}
			o.waitsForRestart(t, m.code)
			o.run(t, "systemctl stop outrider")
			journal := o.journal(t, before)
			t.Logf("the journal:\n%s", journal)
			for _, want := range m.says {
				if !strings.Contains(journal, want) {
					t.Errorf("the journal does not say %q", want)
				}
			}
			if n := strings.Count(journal, "Main process exited"); n > 1 {
				t.Errorf("%d starts at once", n)
			}
		})
	}
	t.Run("APortOfTheTrafficThatSomebodyHasIsTakenBackOnceItIsFree", o.getsItsPortsBack)
	t.Run("AUnitThatCannotRunTriesAgainAtItsPace", o.keepsItsPace)
}

// A lack is a port that somebody else has when the agent starts.
type lack struct {
	name, address string
	says          string
	state         string // of the unit meanwhile
	pass          func(*testing.T)
}

// getsItsPortsBack wants an agent to say which port it lacks, to serve what it
// can without it, and to go on by itself when the port is free.
func (o *owner) getsItsPortsBack(t *testing.T) {
	for _, l := range []lack{
		{"OfAnUpstream", upstreamTo, `upstream \"api\" on ` + upstreamTo, "active", o.callsPass},
		// Without the port that peers call there is nothing to be ready for.
		{"OfTheSidecar", ":21000", "the inbound listener on 0.0.0.0:21000", "activating", o.isCalled},
	} {
		t.Run(l.name, func(t *testing.T) { o.getsItsPortBack(t, l) })
	}
}

func (o *owner) getsItsPortBack(t *testing.T, l lack) {
	taken := listen(t, l.address)
	defer taken.Close()
	before := o.mark(t)
	defer func() { o.run(t, "systemctl stop outrider") }()
	o.run(t, "systemctl start --no-block outrider")
	until(t, "the journal says which port it lacks", func() error {
		text := o.journal(t, before)
		for _, want := range []string{"listen for " + l.says, "address already in use; free the address or configure another"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("it does not say %q: %s", want, text)
			}
		}
		return nil
	})
	until(t, "the unit is "+l.state, func() error {
		if state := o.property(t, "ActiveState"); state != l.state {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	pid := o.pid(t)
	_ = taken.Close()
	l.pass(t)
	o.active(t)
	if now, n := o.pid(t), o.property(t, "NRestarts"); now != pid || n != "0" {
		t.Errorf("without %s it was started again: process %d, then %d", l.address, pid, now)
	}
}

// waitsForRestart wants a start that ended with this code, and systemd to wait
// before the next one.
func (o *owner) waitsForRestart(t *testing.T, code string) {
	t.Helper()
	until(t, "the unit waits for its next start", func() error {
		if state := o.property(t, "SubState"); state != "auto-restart" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	if got := o.property(t, "ExecMainStatus"); got != code {
		t.Errorf("the exit code is %s, want %s", got, code)
	}
}

// keepsItsPace wants a unit that cannot run to try again, and no sooner than it
// says.
func (o *owner) keepsItsPace(t *testing.T) {
	o.run(t, "systemctl stop outrider; chmod 600 "+configFile)
	began := time.Now()
	o.fails(t, "systemctl start outrider")
	until(t, "it tries again twice", func() error {
		if n := o.property(t, "NRestarts"); n != "2" {
			return fmt.Errorf("%s times so far", n)
		}
		return nil
	})
	if took := time.Since(began); took < 2*restartPace {
		t.Errorf("three starts within %v", took)
	}
	// What is mended is found at the next try, without a person.
	o.run(t, "chmod 644 "+configFile)
	o.active(t)
	o.callsPass(t)
}
