// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import "net/http"

// version is that of the Consul whose API this is.
const version = "1.22.3"

type selfView struct {
	Config      selfConfig
	DebugConfig selfDebug
	Member      selfMember
	Meta        map[string]string
}

type selfConfig struct {
	Datacenter        string
	PrimaryDatacenter string
	NodeName          string
	NodeID            string
	Revision          string
	Server            bool
	Version           string
}

type selfDebug struct {
	ACLsEnabled            bool
	DefaultIntentionPolicy string
}

type selfMember struct {
	Name   string
	Addr   string
	Tags   map[string]string
	Status int
}

// getSelf says who this is. The default intention policy is always spelt out.
func (s *Server) getSelf(w http.ResponseWriter, _ *http.Request) error {
	policy := "deny"
	if s.opts.DefaultAllow {
		policy = "allow"
	}
	node := s.state.node()
	return reply(w, selfView{
		Config: selfConfig{
			Datacenter: s.opts.Datacenter, PrimaryDatacenter: s.opts.Datacenter, NodeName: node.Node, NodeID: node.ID,
			Server: true, Version: version,
		},
		DebugConfig: selfDebug{DefaultIntentionPolicy: policy},
		Member:      selfMember{Name: node.Node, Addr: node.Address, Tags: map[string]string{"dc": s.opts.Datacenter, "role": "consul"}, Status: 1},
		Meta:        node.Meta,
	})
}

// getLeader names the only server there is, by the address it was called at.
func (s *Server) getLeader(w http.ResponseWriter, r *http.Request) error {
	return reply(w, r.Host)
}
