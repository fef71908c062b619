// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

type wireEndpoint struct {
	Node struct {
		Node            string
		Address         string
		Datacenter      string
		Partition       string
		PeerName        string
		TaggedAddresses map[string]string
	}
	Service struct {
		ID              string
		Kind            string
		Service         string
		Namespace       string
		PeerName        string
		Address         string
		Port            int
		TaggedAddresses map[string]wireAddress
		Weights         *struct{ Passing, Warning int }
		Proxy           struct {
			DestinationServiceName string
			TransparentProxy       struct{ DialedDirectly bool }
		}
		Connect struct {
			Native   bool
			PeerMeta *wirePeerMeta // of a service of a peer
		}
	}
	Checks []wireCheck
}

type wireAddress struct {
	Address string
	Port    int
}

type wireCheck struct {
	CheckID   string
	Name      string
	Status    string
	ServiceID string
}

const maxWeight = 128

// convertEndpoint judges an instance on the spot: Consul is asked for all of
// them, so that one which is left out can be shown with its reason. The rules
// are those of Consul's own proxies (Consul, service weights and health): any
// critical check takes an instance out, a warning replaces its weight, a weight
// below one takes it out.
func convertEndpoint(key EndpointsKey, w wireEndpoint) connect.Endpoint {
	e := locate(key, w)
	weight, warning, unusable := judge(w, key.OnlyPassing)
	switch {
	case unusable != "":
		e.Unusable = unusable
	case e.Unusable != "":
	case weight < 1 && warning:
		e.Unusable = fmt.Sprintf("its weight is %d while a check is in warning", weight)
	case weight < 1:
		e.Unusable = fmt.Sprintf("its weight is %d", weight)
	default:
		e.Weight = min(weight, maxWeight)
	}
	return e
}

// locate says where an instance is, whatever its checks say.
func locate(key EndpointsKey, w wireEndpoint) connect.Endpoint {
	address, port := pickAddress(key, w)
	e := connect.Endpoint{ID: w.Service.ID, Node: w.Node.Node, Address: address, Direct: w.Service.Proxy.TransparentProxy.DialedDirectly}
	if port > 0 && port <= 65535 {
		e.Port = uint16(port)
	}
	if address == "" || e.Port == 0 {
		e.Unusable = fmt.Sprintf("it is registered with address %q and port %d, which nobody can call", address, port)
	}
	return e
}

func sortEndpoints(endpoints []connect.Endpoint) {
	slices.SortFunc(endpoints, func(a, b connect.Endpoint) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
}

// judge returns the weight of an instance, whether it is that of a warning, and
// why it gets no traffic at all.
func judge(w wireEndpoint, onlyPassing bool) (weight int, warning bool, unusable string) {
	weight, onWarning := 1, 1
	if w.Service.Weights != nil {
		weight, onWarning = w.Service.Weights.Passing, w.Service.Weights.Warning
	}
	var warned string
	for _, c := range w.Checks {
		switch {
		case c.Status == "passing":
		case c.CheckID == "_node_maintenance":
			return 0, false, "its node is in maintenance"
		case strings.HasPrefix(c.CheckID, "_service_maintenance:"):
			return 0, false, "it is in maintenance"
		case c.Status == "warning":
			warned = checkName(c)
		case c.Status == "critical":
			return 0, false, checkName(c) + " is critical"
		default:
			// A status we do not know is no reason to trust the instance.
			return 0, false, fmt.Sprintf("%s is %q, which is no known status", checkName(c), c.Status)
		}
	}
	if warned == "" {
		return weight, false, ""
	}
	if onlyPassing {
		return 0, true, warned + " is in warning, and the subset takes only passing instances"
	}
	return onWarning, true, ""
}

func checkName(c wireCheck) string {
	name := c.Name
	if name == "" {
		name = c.CheckID
	}
	if c.ServiceID == "" {
		return fmt.Sprintf("node check %q", name)
	}
	return fmt.Sprintf("check %q", name)
}

// pickAddress chooses among the addresses of an instance as Consul documents
// it: those tagged "wan" for callers in another datacenter, partition or peer, the
// service's own before its node's. The node's "wan" address stands in only for
// a service without an address.
func pickAddress(key EndpointsKey, w wireEndpoint) (string, int) {
	wan := key.Peer != "" || (w.Node.Datacenter != "" && w.Node.Datacenter != key.Local) ||
		!strings.EqualFold(orDefault(w.Node.Partition), orDefault(key.LocalPartition))
	if tagged := w.Service.TaggedAddresses["wan"]; wan && tagged.Address != "" {
		if tagged.Port == 0 {
			tagged.Port = w.Service.Port
		}
		return tagged.Address, tagged.Port
	}
	if w.Service.Address != "" {
		return w.Service.Address, w.Service.Port
	}
	if tagged := w.Node.TaggedAddresses["wan"]; wan && tagged != "" {
		return tagged, w.Service.Port
	}
	return w.Node.Address, w.Service.Port
}
