// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func (o *owner) goes(t *testing.T) {
	o.run(t, "outrider upgrade")
	o.run(t, "dpkg --remove outrider")
	o.isGone(t)
	o.run(t, "test -s /etc/outrider.d/consul.token; test -s "+configFile+"; test ! -e /usr/bin/outrider")
	o.run(t, "dpkg --purge outrider; systemctl daemon-reload")
	for _, place := range []string{"/etc/outrider.d", "/var/lib/outrider", "/var/log/outrider", "/run/outrider", "/usr/share/doc/outrider"} {
		// /run is not that of the root.
		if out, err := o.try("ls -d " + place); err == nil {
			t.Errorf("%s is still there", out)
		}
	}
	if out, err := o.try("systemctl cat outrider.service"); err == nil {
		t.Errorf("systemd still knows the unit: %s", out)
	}
}

// isGone wants no process, and nothing in Consul.
func (o *owner) isGone(t *testing.T) {
	t.Helper()
	if out, err := o.try("pgrep -x outrider"); err == nil {
		t.Errorf("it still runs: %s", out)
	}
	if got := slices.Sorted(maps.Keys(o.lab.registered(t))); !slices.Equal(got, []string{"api", "api-sidecar-proxy"}) {
		t.Errorf("Consul still has the services %v", got)
	}
}

func (o *owner) livesWithRPM(t *testing.T) {
	files := o.put(t, built(t, "old", ".rpm"), built(t, "new", ".rpm"))
	o.run(t, "rpm --initdb; rpm --install --nodeps "+files[0])
	o.lab.equip(t, o.root)
	for _, b := range readmeBlocks(t) {
		if b.language == "hcl" {
			o.write(t, configFile, b.text, 0o644)
		}
	}
	o.run(t, "install -m 0640 -g outrider consul.token vault.role-id vault.secret-id /etc/outrider.d/; systemctl enable --now outrider")
	o.callsPass(t)
	o.isCalled(t)
	pid := o.pid(t)
	flow := startFlow(t)
	o.run(t, "rpm --upgrade --nodeps "+files[1])
	until(t, "the new version serves", func() error { return o.serves(newVersion) })
	flow.end(t)
	if now := o.pid(t); now == pid {
		t.Errorf("the old process %d is still the main one", pid)
	}
	o.callsPass(t)
	o.run(t, "rpm --erase outrider")
	o.isGone(t)
	if left, err := filepath.Glob(o.path("/usr/bin/outrider*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// serves returns nil once the running agent says that it is this version.
func (o *owner) serves(version string) error {
	out, err := o.try("outrider status")
	if err == nil && !strings.HasPrefix(out, "outrider "+version) && !strings.HasPrefix(out, "outrider v"+version) {
		line, _, _ := strings.Cut(out, "\n")
		err = fmt.Errorf("its status begins with %q", line)
	}
	return err
}
