// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	living = "d98a737d-bf18-1f42-036f-e68dd9aff7bc"
	ended  = "83b460da-3499-0866-d2f3-a57669df272c"
)

// mapped is what iptables-save prints of an allocation's port, at one address of
// the host or, with "", at all.
func mapped(alloc, address string, port int) string {
	chain := "CNI-DN-" + strings.ReplaceAll(alloc, "-", "")[:21]
	if address != "" {
		address = "-d " + address + "/32 "
	}
	return fmt.Sprintf(`-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"nomad\" id: \"%[1]s\"" -m multiport --dports 31000,%[4]d -j %[2]s
-A %[2]s -s 169.254.64.0/20 %[3]s-p tcp -m tcp --dport %[4]d -j CNI-HOSTPORT-SETMARK
-A %[2]s %[3]s-p tcp -m tcp --dport %[4]d -j DNAT --to-destination 169.254.64.2:%[4]d
`, alloc, chain, address, port)
}

func TestAPortThatLeadsToTwoPlacesIsFound(t *testing.T) {
	t.Parallel()
	// 0x1F90 is 8080.
	const listening = "head\n 0: %s:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4242 1\n"
	for name, tc := range map[string]struct {
		rules, sockets string
		state          State
		evidence       string // "" for no finding
	}{
		"no mapping":                         {"-A POSTROUTING -j MASQUERADE\n", "", "", ""},
		"one allocation":                     {mapped(living, "", 8080), "", OK, "1 ports lead to allocations"},
		"two with ports of their own":        {mapped(living, "", 8080) + mapped(ended, "", 8081), "", OK, "2 ports"},
		"two with one port":                  {mapped(ended, "", 8080) + mapped(living, "", 8080), "", Fail, "port 8080 (tcp) leads to allocation " + ended + ": allocation " + living + " has it, too"},
		"two at two addresses":               {mapped(ended, "10.0.0.1", 8080) + mapped(living, "10.0.0.2", 8080), "", OK, "2 ports"},
		"two at one address":                 {mapped(ended, "10.0.0.1", 8080) + mapped(living, "10.0.0.1", 8080), "", Fail, "allocation " + living + " has it, too"},
		"one at an address that all contain": {mapped(ended, "", 8080) + mapped(living, "10.0.0.1", 8080), "", Fail, "allocation " + living + " has it, too"},
		"a listener of the host":             {mapped(ended, "", 8080), fmt.Sprintf(listening, "00000000"), Fail, "a program of this host listens on it, too"},
		"a listener at another address":      {mapped(ended, "10.0.0.1", 8080), fmt.Sprintf(listening, "0200000A"), OK, "1 ports"},
		"a listener on the loopback":         {mapped(ended, "", 8080), fmt.Sprintf(listening, "0100007F"), OK, "1 ports"},
		"another user of the plugin":         {strings.ReplaceAll(mapped(ended, "", 8080)+mapped(living, "", 8080), "nomad", "podman"), "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := healthy()
			w.chains = tc.rules
			w.root["proc/net/tcp"] = &fstest.MapFile{Data: []byte(tc.sockets)}
			var got []Finding
			for _, f := range w.examine(t) {
				if f.Check == "port mappings" {
					got = append(got, f)
				}
			}
			switch {
			case tc.evidence == "" && len(got) == 0:
			case len(got) != 1 || got[0].State != tc.state || !strings.Contains(got[0].Evidence, tc.evidence):
				t.Errorf("findings %+v", got)
			}
		})
	}
}
