// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/hcl"
)

func TestLaunchThatCannotWorkIsAnError(t *testing.T) {
	nomadTask(t, hook(nil))
	for name, c := range map[string]struct {
		launch Launch
		env    map[string]string
		says   string
	}{
		"a PKI role without Vault":    {Launch{Vault: hcl.Vault{PKI: hcl.PKI{Mount: "pki", Role: "r"}}}, nil, "not where Vault is; set VAULT_ADDR"},
		"half of a PKI role":          {Launch{Vault: hcl.Vault{Address: "https://v:8200", PKI: hcl.PKI{Role: "r"}}}, nil, "give -vault-pki-mount and -vault-pki-role"},
		"Consul without verification": {Launch{}, map[string]string{"CONSUL_HTTP_SSL_VERIFY": "false"}, "would let anybody pose as Consul"},
		"a password for Consul":       {Launch{Consul: hcl.Consul{Address: "http://u:hunter2@10.0.0.1:8500"}}, nil, "-http-addr holds a user or a password"},
		"a password in Consul's name": {Launch{}, map[string]string{"CONSUL_HTTP_ADDR": "http://u:hunter2@10.0.0.1:8500"}, "CONSUL_HTTP_ADDR holds a user or a password"},
		"a password for Vault":        {Launch{Vault: hcl.Vault{Address: "https://u:hunter2@v:8200", PKI: hcl.PKI{Mount: "pki", Role: "r"}}}, nil, "address of Vault holds a user or a password"},
		"an admin API for all":        {Launch{Admin: "0.0.0.0:19000"}, nil, "open to the network"},
		"an admin API for others":     {Launch{Admin: "10.0.0.1:19000"}, nil, "open to the network"},
		"a login without a JWT":       {Launch{ProxyID: "p", Consul: hcl.Consul{Login: &hcl.Login{AuthMethod: "m"}}}, map[string]string{"NOMAD_ALLOC_ID": ""}, "-login-token-file"},
		"a Vault without credentials": {Launch{Vault: hcl.Vault{Address: "https://v:8200", PKI: hcl.PKI{Mount: "pki", Role: "r"}}}, nil, "nothing to log in with"},
	} {
		t.Run(name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			p, err := c.launch.Prepare()
			if err == nil {
				p.findHost = func() (*nomad.HostNetwork, bool, error) { return nil, true, errors.New("no") }
				_, err = p.Await(t.Context(), hclog.NewNullLogger())
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error is %v, want %q", err, c.says)
			}
		})
	}
}
