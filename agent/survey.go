// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/hcl"
)

// ConsulClient returns a client for the Consul of a configuration, without a
// log; address is used in place of the configured one unless it is "". It sends
// nothing yet, and never logs in: that would make a token, so a configuration with
// a login asks without one. The error is about the configuration.
func ConsulClient(cfg *hcl.Config, address string) (*consul.Client, error) {
	c := consulConfig(cfg.Consul)
	c.Address, c.Login = cmp.Or(address, c.Address), nil
	return consul.NewClient(c, nil)
}

// VaultClient returns a client for the Vault of a configuration, without a log,
// and nil when there is none. It sends nothing yet. The error is about the
// configuration.
func VaultClient(cfg *hcl.Config) (*vault.Client, error) {
	if cfg.Vault == nil {
		return nil, nil
	}
	return vault.NewClient(vaultConfig(*cfg.Vault), hclog.NewNullLogger())
}
