// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
)

// A FailingCheck is a check for which Consul's agent takes a service, or all of the
// host, out of what callers are given.
type FailingCheck struct {
	ServiceID string // "" for a check of the whole host
	Name      string
	Status    string // "critical", or "warning", with which callers may still be given it
	// Output is what the check saw, in one short line: the connection that was
	// refused, the status that was answered without its body, what a script said.
	// Consul shows it to everybody who may read the service.
	Output string
}

// maxOutput bounds the output of a check, in bytes.
const maxOutput = 200

// FailingChecks returns the checks of Consul's agent that do not pass now, of all
// services that the token may read, ordered by service and name.
func (c *Client) FailingChecks(ctx context.Context) ([]FailingCheck, error) {
	all, err := c.agentChecks(ctx, request{doing: "read the checks of the agent", needs: "service:read on the services of this host"})
	if err != nil {
		return nil, err
	}
	var out []FailingCheck
	for _, check := range all {
		if check.Status != api.HealthPassing {
			out = append(out, FailingCheck{check.ServiceID, check.Name, check.Status, briefly(check.Output)})
		}
	}
	slices.SortFunc(out, func(a, b FailingCheck) int {
		return cmp.Or(cmp.Compare(a.ServiceID, b.ServiceID), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// briefly makes one short line of the output of a check. Consul puts the body of
// the answer to an HTTP check behind "Output:"; that belongs into no log.
func briefly(output string) string {
	output, _, _ = strings.Cut(output, "Output:")
	output = strings.Join(strings.Fields(output), " ")
	if len(output) > maxOutput {
		output = strings.ToValidUTF8(output[:maxOutput], "") + "…"
	}
	return output
}
