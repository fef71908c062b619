// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// An instanceView is one instance of a service with its node and its checks.
type instanceView struct {
	Node    nodeInfo
	Service instanceService
	Checks  []checkView
}

type nodeInfo struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	CreateIndex     uint64
	ModifyIndex     uint64
}

// An instanceService is a service as the servers show it.
type instanceService struct {
	Kind              string `json:",omitempty"`
	ID                string
	Service           string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]address `json:",omitempty"`
	Meta              map[string]string
	Port              int
	SocketPath        string `json:",omitempty"`
	Weights           weights
	EnableTagOverride bool
	Proxy             proxy
	Connect           connectBlock
	PeerName          string
	Locality          *locality `json:",omitempty"`
	CreateIndex       uint64
	ModifyIndex       uint64
}

// getHealth lists the instances of a service; with connect, those that stand
// for it in the mesh: sidecars and native services.
func (s *Server) getHealth(connect bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		name := r.PathValue("service")
		if err := s.checkDatacenter(r); err != nil {
			return err
		}
		keep, err := parseFilter(r.URL.Query().Get("filter"))
		if err != nil {
			return fail(http.StatusBadRequest, "Failed to create boolean expression evaluator: %v", err)
		}
		tags, onlyPassing := r.URL.Query()["tag"], isSet(r, "passing")
		return s.block(w, r, func(st *state) (answer, error) {
			found := []instanceView{}
			for _, each := range st.instances(name, connect) {
				v := st.viewInstance(each)
				// Consul takes tags into account for the service itself only.
				hasTags := connect || !slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(each.def.Tags, t) })
				if keep.match(each.def) && hasTags && (!onlyPassing || allPassing(v.Checks)) {
					found = append(found, v)
				}
			}
			return answer{index: st.healthIndex(name, connect), value: found}, nil
		})
	}
}

func (s *Server) checkDatacenter(r *http.Request) error {
	if dc := r.URL.Query().Get("dc"); dc != "" && !strings.EqualFold(dc, s.opts.Datacenter) {
		return fail(http.StatusInternalServerError, "No path to datacenter")
	}
	return nil
}

// healthIndex is that of the service while it has instances, else that of the
// catalog, so that it never falls when the last one goes.
func (st *state) healthIndex(name string, connect bool) uint64 {
	t := serviceTopic(name)
	if connect {
		t = connectTopic(name)
	}
	if index := st.topics[t]; index != 0 {
		return index
	}
	return st.at(catalogTopic)
}

// instances returns those of a service, sorted by ID.
func (st *state) instances(name string, connect bool) []*service {
	var found []*service
	for _, id := range slices.Sorted(maps.Keys(st.services)) {
		each := st.services[id]
		if connect && each.meshName() == name || !connect && each.def.Name == name {
			found = append(found, each)
		}
	}
	return found
}

func allPassing(checks []checkView) bool {
	return !slices.ContainsFunc(checks, func(c checkView) bool { return c.Status != passing })
}

func (st *state) viewInstance(s *service) instanceView {
	v := st.view(s)
	out := instanceView{Node: st.node(), Service: instanceService{
		Kind: v.Kind, ID: v.ID, Service: v.Service, Tags: v.Tags, Address: v.Address,
		TaggedAddresses: maps.Clone(v.TaggedAddresses), Meta: v.Meta, Port: v.Port, SocketPath: v.SocketPath, Weights: v.Weights,
		EnableTagOverride: v.EnableTagOverride, Locality: v.Locality, CreateIndex: s.create, ModifyIndex: s.modify,
	}}
	if v.Proxy != nil {
		out.Service.Proxy = *v.Proxy
	}
	if v.Connect != nil {
		out.Service.Connect = *v.Connect
	}
	if ip := st.vip(s.meshName()); ip != "" && s.meshName() != "" {
		if out.Service.TaggedAddresses == nil {
			out.Service.TaggedAddresses = make(map[string]address)
		}
		out.Service.TaggedAddresses["consul-virtual"] = address{Address: ip, Port: v.Port}
	}
	out.Checks = append(out.Checks, st.nodeCheck())
	for _, id := range slices.Sorted(maps.Keys(st.checks)) {
		if c := st.checks[id]; c.serviceID == s.def.ID {
			out.Checks = append(out.Checks, st.viewCheck(c))
		}
	}
	return out
}

func (st *state) node() nodeInfo {
	const loopback = "127.0.0.1"
	return nodeInfo{
		ID: st.nodeID, Node: st.opts.NodeName, Address: loopback, Datacenter: st.opts.Datacenter,
		TaggedAddresses: map[string]string{"lan": loopback, "lan_ipv4": loopback, "wan": loopback, "wan_ipv4": loopback},
		Meta:            map[string]string{"consul-network-segment": "", "consul-version": version},
		CreateIndex:     1, ModifyIndex: 1,
	}
}

// nodeCheck is that of the node, which is alive as long as it answers.
func (st *state) nodeCheck() checkView {
	return checkView{
		Node: st.opts.NodeName, CheckID: "serfHealth", Name: "Serf Health Status", Status: passing,
		Output: "Agent alive and reachable", ServiceTags: []string{}, CreateIndex: 1, ModifyIndex: 1,
	}
}

func (s *Server) getNodeHealth(w http.ResponseWriter, r *http.Request) error {
	node := r.PathValue("id")
	return s.block(w, r, func(st *state) (answer, error) {
		found := []checkView{}
		if node == st.opts.NodeName {
			found = append(found, st.nodeCheck())
			for _, id := range slices.Sorted(maps.Keys(st.checks)) {
				found = append(found, st.viewCheck(st.checks[id]))
			}
		}
		return answer{index: st.at(catalogTopic), value: found}, nil
	})
}

// getCatalog lists the names of all services with the tags of their instances.
func (s *Server) getCatalog(w http.ResponseWriter, r *http.Request) error {
	if err := s.checkDatacenter(r); err != nil {
		return err
	}
	return s.block(w, r, func(st *state) (answer, error) {
		names := map[string][]string{"consul": {}}
		for _, each := range st.services {
			tags := append(slices.Clone(names[each.def.Name]), each.def.Tags...)
			slices.Sort(tags)
			if names[each.def.Name] = slices.Compact(tags); tags == nil {
				names[each.def.Name] = []string{}
			}
		}
		return answer{index: st.at(catalogTopic), value: names}, nil
	})
}
