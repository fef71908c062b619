// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import "testing"

// TestNomad is one lab and the properties that hold in it. The lab starts once:
// what takes time in it is waiting, so that properties wait together.
func TestNomad(t *testing.T) {
	l := startLab(t)
	for _, property := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"client restart leaves allocations alone", testClientRestart},
		{"doctor finds that consul is missing for Nomad's hook", testDoctorFinds},
		{"tokens of one minute last for five minutes of traffic", testShortTokens},
		{"job is in the mesh within seconds, intentions decide, a batch job calls", testFirstCall},
		{"exec driver in 32 MB", testExec},
		{"unix socket of Consul", testSocket},
		{"no way to Consul is explained", testNoWay},
		{"upstreams change in place", testUpstreamChange},
		{"restarts of application and sidecar", testRestarts},
		{"job stop under load fails no request", testStop},
		{"application's last calls work and its sidecar ends in time", testLastCall},
		{"canary is shifted by a splitter", testCanary},
		{"Vault signs for a task of kind connect-proxy", testVault},
		{"Vault signs for an identity of a sidecar task", testVaultIdentity},
		{"dead token is explained and survived", testDeadToken},
		{"mixed mesh with Envoy and the builtin proxy", testMixed},
		{"two datacenters without gateways", testDatacenters},
		{"agent on every client", testAgents},
		{"bad input is explained and waited out", testBadInput},
		{"taken port is explained and taken back", testPortTaken},
		{"inject refuses what Nomad would refuse", testRefusals},
		{"injected job runs with leaves of Vault", testInject},
		{"doctor finds nothing on a good host", testDoctor},
		{"status lists the sidecars of the host", testHostView},
		{"transparent proxy brings virtual IPs to the mesh", testTransparent},
	} {
		t.Run(property.name, func(t *testing.T) { property.test(t, l) })
	}
}
