// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
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
	MeshGateway                   string // the upstream's mode; "" keeps the targets' own
}

// UpstreamChainKey is the key of the chain of an upstream of s.
func UpstreamChainKey(u connect.Upstream, s connect.Service) ChainKey {
	return ChainKey{
		Service:     u.Name,
		Namespace:   either(u.Namespace, s.Namespace),
		Partition:   either(u.Partition, s.Partition),
		Datacenter:  u.Datacenter,
		MeshGateway: u.MeshGateway,
	}
}

// String names the key in logs and status.
func (k ChainKey) String() string {
	name := inTenancy(k.Service, k.Namespace, k.Partition)
	var options []string
	if k.Datacenter != "" {
		options = append(options, "dc="+k.Datacenter)
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
	MeshGateway                           string
	Local                                 string // the caller's datacenter
	LocalPartition                        string // the caller's partition
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
		MeshGateway:    t.MeshGateway,
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
	if k.Peer != "" {
		return name + "?peer=" + k.Peer
	}
	return name + "?dc=" + k.Datacenter
}

// problem says why no endpoint of the target can be called yet, "" when that is
// up to each.
func (k EndpointsKey) problem() string {
	if k.Peer != "" {
		return fmt.Sprintf("it is in peer %q: cluster peering is not served yet", k.Peer)
	}
	return gatewayProblem(k.MeshGateway, k.Datacenter, k.Local)
}

// gatewayProblem says why a target in another datacenter cannot be called.
func gatewayProblem(mode, datacenter, local string) string {
	if (mode != "local" && mode != "remote") || datacenter == "" || datacenter == local {
		return ""
	}
	return fmt.Sprintf("it is in datacenter %q and mesh gateway mode is %q: connections through mesh gateways are not served yet; with mode \"none\" instances are called directly", datacenter, mode)
}

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
