// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/hcl"
)

// ConsulClient returns a client for the Consul of a configuration, without a
// log; address is used in place of the configured one unless it is "". It sends
// nothing yet. The error is about the configuration.
func ConsulClient(cfg *hcl.Config, address string) (*consul.Client, error) {
	c := consulConfig(cfg.Consul)
	c.Address = cmp.Or(address, c.Address)
	return consul.NewClient(c, nil)
}
