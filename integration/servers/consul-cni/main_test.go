// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCommandsAnswerAsCNIWants(t *testing.T) {
	for _, tt := range []struct{ command, args, in, out, err string }{
		{out: "v1.5.0"},
		{command: "VERSION", out: `"supportedVersions"`},
		{command: "DEL"},
		{command: "CHECK"},
		{command: "ADD", args: "A=1;B=2", in: `{"prevResult":{"ips":[]}}`, out: `{"ips":[]}`},
		{command: "ADD", in: `{}`, err: "no result of a plugin before"},
		{command: "ADD", in: `?`, err: "understand the network configuration"},
		{command: "ADD", args: "CONSUL_IPTABLES_CONFIG=?", in: `{"prevResult":{}}`, err: "understand CONSUL_IPTABLES_CONFIG"},
		{command: "ADD", args: "A=1;CONSUL_IPTABLES_CONFIG={}", in: `{"prevResult":{}}`, err: "ProxyUserID is required"},
		{command: "MOVE", err: "is not known"},
	} {
		var out bytes.Buffer
		err := run(tt.command, tt.args, strings.NewReader(tt.in), &out)
		if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s %s: error %v, want %q", tt.command, tt.args, err, tt.err)
		}
		if !strings.Contains(out.String(), tt.out) {
			t.Errorf("%s %s: wrote %q, want %q", tt.command, tt.args, out.String(), tt.out)
		}
	}
}
