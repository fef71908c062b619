// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/watch"
)

type wireOutside struct {
	Name        string
	Destination *struct {
		Addresses []string
		Port      int
	}
}

const (
	// maxDestinations bounds the addresses of all destinations.
	maxDestinations = 4096
	// maxNamed bounds how many services one note names.
	maxNamed = 8
)

// addDestinations reads the addresses outside the mesh that other proxies reach
// through terminating gateways only. We do not serve those, and do not go round
// the gateways either: who is at an address cannot be told from who is let
// through to it. It is asked with each answer about intentions, which comes once
// a minute at least.
func (c *Client) addDestinations(ctx context.Context, key ImplicitKey, out *Implicit) error {
	var w []wireOutside
	_, err := c.get(ctx, request{
		doing: "read the destinations of service-defaults", path: "/v1/config/service-defaults", params: tenancy(key.Namespace, key.Partition),
		needs: "service:read on the services that are destinations",
	}, watch.Cursor{}, &w)
	if err != nil {
		return err
	}
	return convertDestinations(w, out)
}

func convertDestinations(list []wireOutside, out *Implicit) error {
	var named []string
	for _, w := range list {
		if w.Destination == nil {
			continue
		}
		named = append(named, w.Name)
		for _, text := range w.Destination.Addresses {
			ip, err := netip.ParseAddr(text)
			if err != nil || checkPort(w.Destination.Port) != nil {
				continue // a host name, of which a connection knows nothing
			}
			if len(out.Destinations) == maxDestinations {
				return fmt.Errorf("destinations of service-defaults have more than %d addresses: those left out would be called directly", maxDestinations)
			}
			out.Destinations = append(out.Destinations, netip.AddrPortFrom(ip.Unmap().WithZone(""), uint16(w.Destination.Port))) //nolint:gosec // a port
		}
	}
	slices.SortFunc(out.Destinations, netip.AddrPort.Compare)
	if len(named) == 0 {
		return nil
	}
	slices.Sort(named)
	more := ""
	if left := len(named) - maxNamed; left > 0 {
		named, more = named[:maxNamed], fmt.Sprintf(" and %d more", left)
	}
	out.Notes = append(out.Notes, fmt.Sprintf("destinations %s%s are behind terminating gateways, which transparent mode does not serve: connections to their IP addresses are refused, those to host names are passed on as to anything outside the mesh; mesh_destinations_only forbids that",
		strings.Join(named, ", "), more))
	return nil
}
