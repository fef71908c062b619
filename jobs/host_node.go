// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/api"
)

// A Node is what a Nomad client says about itself and has found on its host.
type Node struct {
	Address  string // of the agent that was asked
	Port     int    // of the agent's HTTP API; 0 when it does not say
	Version  string
	ID       string // "" for an agent that is no client; the rest is empty then
	Name     string
	Status   string // ready, initializing, down or disconnected
	Eligible bool   // for new allocations
	// ConsulAddress is consul.address of the agent's configuration.
	ConsulAddress string
	CNIPath       string
	Attributes    map[string]string // the fingerprint, such as consul.version
	Drivers       map[string]Driver
}

// A Driver is the state of one task driver on a node.
type Driver struct {
	Detected, Healthy bool
	Description       string
}

// Node asks the agent about itself. The error says which policy a token lacks.
func (c *Client) Node(ctx context.Context) (*Node, error) {
	self, err := c.self(ctx)
	if err != nil {
		return nil, err
	}
	n := &Node{Address: c.Address(), Port: self.Port, Version: self.Version, ID: self.NodeID, Name: self.NodeName, ConsulAddress: self.ConsulAddress, CNIPath: self.CNIPath}
	if n.ID == "" {
		return n, nil
	}
	var found api.Node
	if err := c.query(ctx, "/v1/node/"+n.ID, &found); err != nil {
		return nil, lacks(fmt.Errorf("read what Nomad found on this node: %w", err), `node { policy = "read" }`)
	}
	n.Name, n.Status, n.Attributes = found.Name, found.Status, found.Attributes
	n.Eligible = found.SchedulingEligibility == api.NodeSchedulingEligible
	n.Drivers = make(map[string]Driver)
	for name, d := range found.Drivers {
		if d != nil {
			n.Drivers[name] = Driver{Detected: d.Detected, Healthy: d.Healthy, Description: d.HealthDescription}
		}
	}
	return n, nil
}
