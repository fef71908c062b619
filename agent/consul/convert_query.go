// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

type wireQuery struct {
	Service    string
	Datacenter string // in which the answer was found
	Nodes      []wireEndpoint
}

type wirePeerMeta struct {
	SNI      []string
	SpiffeID []string
	Protocol string
}

// convertFound reads what a prepared query has found. Endpoints must prove to be
// one of the services that it found, in the datacenters where they are; the SNI
// is that of Consul's own proxies.
func convertFound(key EndpointsKey, w wireQuery, domain string) connect.Instances {
	out := connect.Instances{
		SNI: fmt.Sprintf("%s.default.%s.query.%s", key.Service, either(key.Datacenter, key.Local), domain),
	}
	for _, node := range w.Nodes {
		e := convertEndpoint(key, node)
		id, err := foundIdentity(w, node, domain)
		if err == nil && !slices.Contains(out.Identities, id) {
			if len(out.Identities) == maxIdentities {
				err = errManyIdentities
			} else {
				out.Identities = append(out.Identities, id)
			}
		}
		if err != nil {
			e.Unusable, e.Weight = err.Error(), 0
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	sortEndpoints(out.Endpoints)
	slices.Sort(out.Identities)
	return out
}

// foundIdentity is who one instance that a query has found must prove to be.
func foundIdentity(w wireQuery, node wireEndpoint, domain string) (string, error) {
	service := ""
	switch {
	case node.Node.PeerName != "" || node.Service.PeerName != "":
		return "", fmt.Errorf("it is of peer %q: prepared queries are served in our own cluster only", either(node.Node.PeerName, node.Service.PeerName))
	case node.Service.Kind == kindProxy:
		service = node.Service.Proxy.DestinationServiceName
	case node.Service.Kind == "terminating-gateway":
		service = w.Service
	case node.Service.Connect.Native:
		service = node.Service.Service
	}
	if service == "" {
		return "", fmt.Errorf("it is no sidecar, and of kind %.40q", node.Service.Kind)
	}
	datacenter := either(node.Node.Datacenter, w.Datacenter)
	if datacenter == "" {
		return "", fmt.Errorf("it is not said in which datacenter it is")
	}
	return connect.Identity{
		TrustDomain: domain, Partition: strings.ToLower(orDefault(node.Node.Partition)), Namespace: orDefault(node.Service.Namespace),
		Datacenter: datacenter, Service: service,
	}.String(), nil
}

// convertInstances reads the instances of a service. Those of a peer's are its
// mesh gateways, and say themselves what to send them and who they prove to be.
func convertInstances(key EndpointsKey, list []wireEndpoint) connect.Instances {
	out := connect.Instances{Endpoints: make([]connect.Endpoint, 0, len(list))}
	said := false
	var first wirePeerMeta
	for _, w := range list {
		e := convertEndpoint(key, w)
		if key.Peer != "" {
			m := w.Service.Connect.PeerMeta
			var problem string
			switch {
			case m == nil:
				problem = fmt.Sprintf("peer %q does not say who it proves to be", key.Peer)
			case !said:
				if problem = prove(&out, key.Peer, *m); problem == "" {
					said, first = true, *m
				}
			case !slices.Equal(first.SNI, m.SNI) || !slices.Equal(first.SpiffeID, m.SpiffeID) || first.Protocol != m.Protocol:
				problem = fmt.Sprintf("peer %q says something else of it than of the others", key.Peer)
			}
			if problem != "" {
				e.Unusable, e.Weight = problem, 0
			}
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	sortEndpoints(out.Endpoints)
	return out
}

// prove takes over what a peer says of a service: what to send its gateways, and
// who they prove to be. It returns why it cannot, "" when it can.
func prove(out *connect.Instances, peer string, m wirePeerMeta) string {
	if len(m.SNI) == 0 || m.SNI[0] == "" || len(m.SpiffeID) == 0 {
		return fmt.Sprintf("peer %q does not say who it proves to be", peer)
	}
	if len(m.SpiffeID) > maxIdentities {
		return errManyIdentities.Error()
	}
	var ids []string
	for _, text := range m.SpiffeID {
		u, err := url.Parse(text)
		if err != nil {
			return fmt.Sprintf("peer %q says that it proves to be something which is not a URI", peer)
		}
		id, err := connect.CanonicalID(u)
		if err != nil {
			return fmt.Sprintf("peer %q says that it proves to be %v", peer, err)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	out.SNI, out.Identities, out.Protocol = m.SNI[0], slices.Compact(ids), protocol(m.Protocol)
	return ""
}
