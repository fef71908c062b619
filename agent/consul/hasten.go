// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/outrider-mesh/outrider/agent/watch"
)

const (
	// listeningCheck is the name of the check that Nomad and Consul give to a
	// sidecar when nobody asks for another (Consul, sidecar service: defaults).
	listeningCheck = "Connect Sidecar Listening"
	// quick is the shortest interval of a check (Consul, health checks).
	quick = time.Second
	// hasteWithin bounds the wait for the check's result.
	hasteWithin = 10 * time.Second
	hastePace   = 200 * time.Millisecond
)

// HastenCheck has Consul look at once whether a sidecar listens. Of a new check
// the first result comes at a random time within its interval, and is bad for a
// sidecar that was registered before it listened: callers elsewhere would wait
// for up to two intervals. The check stays what it is and says what it finds; its
// interval is short until it passes, and then what it was. It is the default check
// only, and only while it does not pass; the report is whether it passes now
// because of this.
//
// token is that of the registration, "" without ACLs: Consul publishes the
// result of a check with the token that last registered it.
func (c *Client) HastenCheck(ctx context.Context, proxyID, token string) (bool, error) {
	w, _, err := c.service(ctx, proxyID, watch.Cursor{})
	if err != nil {
		return false, err
	}
	found, err := c.sidecarCheck(ctx, proxyID, listeningCheck, "tcp")
	if err != nil || found.Status != api.HealthCritical || w.Address == "" || w.Port == 0 {
		return false, err
	}
	interval, err := time.ParseDuration(found.Interval)
	if err != nil || interval <= 2*quick {
		return false, nil // it is soon anyway, or not what the default is
	}
	check := &api.AgentCheckRegistration{ID: found.CheckID, Name: listeningCheck, Notes: found.Notes, ServiceID: proxyID}
	check.TCP, check.Timeout = net.JoinHostPort(w.Address, strconv.Itoa(w.Port)), found.Timeout
	// Whatever happens meanwhile, the interval becomes what it was.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestCourtesy)
		defer cancel()
		check.Interval = found.Interval
		if again := c.registerCheck(ctx, check, token); again != nil && err == nil {
			err = again
		}
	}()
	check.Interval = quick.String()
	if err = c.registerCheck(ctx, check, token); err != nil {
		return false, err
	}
	passes, err := c.awaitPassing(ctx, proxyID)
	return passes, err
}

// requestCourtesy bounds what must be said although its reason is over.
const requestCourtesy = 3 * time.Second

func (c *Client) awaitPassing(ctx context.Context, proxyID string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, hasteWithin)
	defer cancel()
	tick := time.NewTicker(hastePace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
		found, err := c.sidecarCheck(ctx, proxyID, listeningCheck, "tcp")
		switch {
		case ctx.Err() != nil:
			return false, nil
		case err != nil:
			return false, err
		case found.Status == api.HealthPassing:
			return true, nil
		}
	}
}

// An agentCheck is a check as the agent that runs it knows it.
type agentCheck struct {
	CheckID, Name, Status, Notes, Output, ServiceID, Type, Interval, Timeout string
}

// agentChecks reads those of the services that the token may read. r says what
// for.
func (c *Client) agentChecks(ctx context.Context, r request) (all map[string]agentCheck, err error) {
	r.path = "/v1/agent/checks"
	_, err = c.get(ctx, r, watch.Cursor{}, &all)
	return all, err
}

// sidecarCheck returns one of the default checks of a sidecar as its agent knows
// it, the zero value when there is none whose name begins so, of this type.
func (c *Client) sidecarCheck(ctx context.Context, proxyID, name, kind string) (agentCheck, error) {
	all, err := c.agentChecks(ctx, request{doing: fmt.Sprintf("read the checks of %q", proxyID), needs: "service:read on the service of " + strconv.Quote(proxyID)})
	if err != nil {
		return agentCheck{}, err
	}
	for _, check := range all {
		if check.ServiceID == proxyID && strings.HasPrefix(check.Name, name) && check.Type == kind {
			return check, nil
		}
	}
	return agentCheck{}, nil
}

func (c *Client) registerCheck(ctx context.Context, check *api.AgentCheckRegistration, token string) error {
	query := (&api.QueryOptions{Token: token}).WithContext(ctx)
	if err := c.api.Agent().CheckRegisterOpts(check, query); err != nil {
		return fmt.Errorf("register check %q again: %w", check.ID, explain(err, fmt.Sprintf("service:write on the service of %q", check.ServiceID), c.where()))
	}
	return nil
}
