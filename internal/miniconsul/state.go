// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"fmt"
	"sync"
)

// Bounds of what requests can make grow.
const (
	maxServices = 512
	maxChecks   = 2048
	maxEntries  = 1024
	maxLeaves   = 1024
	maxRoots    = 16
	maxSources  = 1024 // of one service-intentions entry
	maxRoutes   = 1024 // of one service-router or service-splitter entry
	maxLegs     = 4096 // of one splitter, when those it leads to are part of it
)

// A topic is something that changes as a whole: each has the index of its last
// change, and the index of an answer is that of its topics.
type topic string

const (
	catalogTopic topic = "catalog" // any service or check
	configTopic  topic = "config"  // any config entry, intentions included
	caTopic      topic = "ca"
	vipTopic     topic = "vip"
)

func serviceTopic(name string) topic { return topic("service/" + name) }
func connectTopic(name string) topic { return topic("connect/" + name) }

// A state is everything the server knows. Values in its maps are replaced,
// never written to, but for checks.
type state struct {
	opts   Options
	nodeID string

	// checksChanged has room for one word to the goroutine that runs checks.
	checksChanged chan struct{}

	mu       sync.Mutex // guards what follows
	index    uint64     // of the last change
	changed  chan struct{}
	topics   map[topic]uint64
	services map[string]*service // by ID
	checks   map[string]*check   // by check ID
	entries  entries
	vips     map[string]int // by service: the n-th virtual address
	ca       authority
	leaves   map[string]*leaf // by service
}

func newState(opts Options) *state {
	st := &state{
		opts:          opts,
		nodeID:        newUUID(),
		checksChanged: make(chan struct{}, 1),
		changed:       make(chan struct{}),
		topics:        make(map[topic]uint64),
		services:      make(map[string]*service),
		checks:        make(map[string]*check),
		entries:       make(entries),
		vips:          make(map[string]int),
		leaves:        make(map[string]*leaf),
	}
	st.bump(catalogTopic, configTopic, caTopic, vipTopic)
	st.ca = newAuthority(opts, st.index)
	return st
}

// bump is called with the state locked when something has changed: it raises
// the index, notes it for the topics, and wakes all blocking queries.
func (st *state) bump(topics ...topic) uint64 {
	st.index++
	for _, t := range topics {
		st.topics[t] = st.index
	}
	close(st.changed)
	st.changed = make(chan struct{})
	return st.index
}

// at is the index of an answer that depends on topics.
func (st *state) at(topics ...topic) uint64 {
	var index uint64
	for _, t := range topics {
		index = max(index, st.topics[t])
	}
	return index
}

// touch notes a change of a service or of its checks.
func (st *state) touch(s *service) uint64 {
	topics := []topic{catalogTopic, serviceTopic(s.def.Name)}
	if name := s.meshName(); name != "" {
		topics = append(topics, connectTopic(name))
	}
	return st.bump(topics...)
}

// forget drops the topics of a service that has no instance left. Answers about
// it then carry the index of the whole catalog, which is never lower.
func (st *state) forget(gone *service) {
	name, mesh := gone.def.Name, gone.meshName()
	var named, meshed bool
	for _, s := range st.services {
		named = named || s.def.Name == name
		meshed = meshed || s.meshName() == mesh
	}
	if !named {
		delete(st.topics, serviceTopic(name))
	}
	if !meshed {
		delete(st.topics, connectTopic(mesh))
	}
}

// assignVIP gives a service of the mesh its virtual address for good.
func (st *state) assignVIP(name string) {
	if _, has := st.vips[name]; has || name == "" || len(st.vips) >= maxServices+maxEntries {
		return
	}
	st.vips[name] = len(st.vips) + 1
	st.bump(vipTopic)
}

// vip returns the virtual address of a service, "" for none.
func (st *state) vip(name string) string {
	n, ok := st.vips[name]
	if !ok {
		return ""
	}
	return fmt.Sprintf("240.0.%d.%d", n/256, n%256)
}

// wakeChecks tells the goroutine that runs checks to look again.
func (st *state) wakeChecks() {
	select {
	case st.checksChanged <- struct{}{}:
	default: // the word is there already
	}
}
