// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/url"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// An IntentionsKey names a destination: a local service.
type IntentionsKey struct {
	Service, Namespace, Partition string
}

// ServiceIntentionsKey is the key of the intentions on who may call s.
func ServiceIntentionsKey(s connect.Service) IntentionsKey {
	return IntentionsKey{Service: s.Name, Namespace: s.Namespace, Partition: s.Partition}
}

// String names the key in logs and status.
func (k IntentionsKey) String() string { return inTenancy(k.Service, k.Namespace, k.Partition) }

// A ServiceKey names a service, whose service-defaults config entry is meant.
type ServiceKey struct {
	Service, Namespace, Partition string
}

// ServiceDefaultsKey is the key of the service-defaults of s.
func ServiceDefaultsKey(s connect.Service) ServiceKey {
	return ServiceKey{Service: s.Name, Namespace: s.Namespace, Partition: s.Partition}
}

// String names the key in logs and status.
func (k ServiceKey) String() string { return inTenancy(k.Service, k.Namespace, k.Partition) }

// A ChainKey names a discovery chain as one upstream sees it.
type ChainKey struct {
	Service, Namespace, Partition string
	Datacenter                    string // in which the chain is compiled; "" means ours
	Peer                          string // of which the service is; such a chain has one target
	Query                         bool   // Service is a prepared query; so has the chain of one
	MeshGateway                   string // the upstream's mode; "" keeps the targets' own
	Unused                        bool   // read now and then instead of watched
}

// UpstreamChainKey is the key of the chain of an upstream of s.
func UpstreamChainKey(u connect.Upstream, s connect.Service) ChainKey {
	return ChainKey{
		Service:     u.Name,
		Namespace:   either(u.Namespace, s.Namespace),
		Partition:   either(u.Partition, s.Partition),
		Datacenter:  u.Datacenter,
		Peer:        u.Peer,
		Query:       u.Query,
		MeshGateway: u.MeshGateway,
	}
}

// String names the key in logs and status.
func (k ChainKey) String() string {
	name := inTenancy(k.Service, k.Namespace, k.Partition)
	var options []string
	if k.Query {
		name = "query:" + k.Service
	}
	if k.Datacenter != "" {
		options = append(options, "dc="+k.Datacenter)
	}
	if k.Peer != "" {
		options = append(options, "peer="+k.Peer)
	}
	if k.MeshGateway != "" {
		options = append(options, "gateway="+k.MeshGateway)
	}
	if len(options) == 0 {
		return name
	}
	return name + "?" + strings.Join(options, "&")
}

// An EndpointsKey names the instances of a target, as they look from where the
// caller is. Two targets with the same key have the same endpoints.
type EndpointsKey struct {
	Service, Subset, Namespace, Partition string
	Datacenter, Peer                      string
	Filter                                string
	OnlyPassing                           bool
	Query                                 bool   // Service is a prepared query, run in Datacenter
	Local                                 string // the caller's datacenter
	LocalPartition                        string // the caller's partition
	Unused                                bool   // read now and then instead of watched
}

// TargetEndpointsKey is the key of the endpoints of a target, called by s.
func TargetEndpointsKey(t connect.Target, s connect.Service) EndpointsKey {
	return EndpointsKey{
		Service:        t.Service,
		Subset:         t.Subset,
		Namespace:      t.Namespace,
		Partition:      t.Partition,
		Datacenter:     t.Datacenter,
		Peer:           t.Peer,
		Filter:         t.Filter,
		OnlyPassing:    t.OnlyPassing,
		Query:          t.Query,
		Local:          s.Datacenter,
		LocalPartition: s.Partition,
	}
}

// String names the key in logs and status.
func (k EndpointsKey) String() string {
	name := inTenancy(k.Service, k.Namespace, k.Partition)
	if k.Subset != "" {
		name = k.Subset + "." + name
	}
	switch {
	case k.Query:
		return "query:" + k.Service
	case k.Peer != "":
		return name + "?peer=" + k.Peer
	}
	return name + "?dc=" + k.Datacenter
}

// A GatewaysKey names the mesh gateways of a datacenter, as they look from where
// the caller is.
type GatewaysKey struct {
	Datacenter     string
	Local          string // the caller's datacenter
	LocalPartition string // the caller's partition
}

// DatacenterGatewaysKey is the key of the mesh gateways of a datacenter, called
// by s.
func DatacenterGatewaysKey(datacenter string, s connect.Service) GatewaysKey {
	return GatewaysKey{Datacenter: datacenter, Local: s.Datacenter, LocalPartition: s.Partition}
}

// String names the key in logs and status.
func (k GatewaysKey) String() string { return "of " + k.Datacenter }

// A PeerKey names a cluster peer.
type PeerKey struct {
	Name      string
	Partition string // the caller's, which has the peering
}

// ServicePeerKey is the key of a peer as s knows it.
func ServicePeerKey(name string, s connect.Service) PeerKey {
	return PeerKey{Name: name, Partition: s.Partition}
}

// String names the key in logs and status.
func (k PeerKey) String() string { return inTenancy(k.Name, "", k.Partition) }

func inTenancy(service, namespace, partition string) string {
	if namespace != "" && namespace != connect.DefaultName {
		service = namespace + "/" + service
	}
	if partition != "" && partition != connect.DefaultName {
		service = partition + "/" + service
	}
	return service
}

// tenancy returns the parameters of a namespace and a partition. The default
// ones are not sent: Consul Community Edition refuses to hear of any.
func tenancy(namespace, partition string) url.Values {
	params := url.Values{}
	if namespace != "" && namespace != connect.DefaultName {
		params.Set("ns", namespace)
	}
	if partition != "" && partition != connect.DefaultName {
		params.Set("partition", partition)
	}
	return params
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
