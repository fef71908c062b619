// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) getServices(w http.ResponseWriter, _ *http.Request) error {
	views := make(map[string]serviceView)
	s.state.mu.Lock()
	for id, each := range s.state.services {
		views[id] = s.state.view(each)
	}
	s.state.mu.Unlock()
	return reply(w, views)
}

// getService blocks on the hash of the service, as agents do on what has no
// index (Consul, hash-based blocking queries).
func (s *Server) getService(w http.ResponseWriter, r *http.Request) error {
	_, wait, err := blockingParams(r)
	if err != nil {
		return err
	}
	id, known := r.PathValue("id"), r.URL.Query().Get("hash")
	var view serviceView
	run := func() (result, error) {
		return s.state.run(func(st *state) (answer, error) {
			each := st.services[id]
			if each == nil {
				return answer{}, fail(http.StatusNotFound, "unknown service ID: %s", id)
			}
			view = st.view(each)
			view.ContentHash = contentHash(view)
			return answer{value: view}, nil
		})
	}
	now, err := run()
	if err == nil && known != "" && view.ContentHash == known {
		now, err = await(r, wait, now, run, func(result) bool { return view.ContentHash != known })
	}
	if err != nil {
		return err
	}
	w.Header().Set("X-Consul-Contenthash", view.ContentHash)
	send(w, now.body)
	return nil
}

func contentHash(v serviceView) string {
	v.ContentHash = ""
	body, err := json.Marshal(v)
	if err != nil {
		return "" // what was read from JSON can be written
	}
	h := fnv.New64a()
	_, _ = h.Write(body) // never fails
	return fmt.Sprintf("%016x", h.Sum64())
}

func (s *Server) putService(w http.ResponseWriter, r *http.Request) error {
	body, err := receive(w, r)
	if err != nil {
		return err
	}
	var d definition
	if err := decode(body, &d); err != nil {
		return fail(http.StatusBadRequest, "Request decode failed: %v", err)
	}
	replace := isSet(r, "replace-existing-checks")
	if err := s.state.register(d, replace); err != nil {
		return fail(http.StatusBadRequest, "%v", err)
	}
	s.logger.Debug("service registered", "service", d.Name, "id", d.ID)
	return nil
}

// isSet reports whether a flag is among the query parameters: "?passing",
// "?passing=1", but not "?passing=false".
func isSet(r *http.Request, name string) bool {
	query := r.URL.Query()
	if !query.Has(name) {
		return false
	}
	on, err := strconv.ParseBool(query.Get(name))
	return err != nil || on
}

// put stores one service with its checks.
func (st *state) put(d definition, parent string, replace bool) {
	fresh := &service{def: d, parent: parent}
	if old := st.services[d.ID]; old != nil {
		fresh.create = old.create
		if parent == "" {
			fresh.parent = old.parent
		}
		if old.def.Name != d.Name || old.meshName() != fresh.meshName() {
			st.touch(old)
			delete(st.services, d.ID)
			st.forget(old)
		}
	}
	st.services[d.ID] = fresh
	fresh.modify = st.touch(fresh)
	if fresh.create == 0 {
		fresh.create = fresh.modify
	}
	st.assignVIP(fresh.meshName())
	st.putChecks(fresh, replace)
}

// putChecks replaces the checks of a service by those of its definition.
// Checks that were registered before keep their status.
func (st *state) putChecks(s *service, replace bool) {
	wanted := make(map[string]bool)
	for i, d := range s.def.Checks {
		c := newCheck(s, i, d)
		wanted[c.id] = true
		if old := st.checks[c.id]; old != nil && old.serviceID == s.def.ID {
			c.create = old.create
			if d.Status == "" {
				c.status, c.output = old.status, old.output
			}
		}
		st.checks[c.id] = c
		c.modify = st.touch(s)
		c.generation = c.modify
		if c.create == 0 {
			c.create = c.modify
		}
	}
	if !replace {
		return
	}
	// Maintenance goes too: to Consul it is a check as any other.
	for id, c := range st.checks {
		if c.serviceID == s.def.ID && !wanted[id] {
			delete(st.checks, id)
			st.touch(s)
		}
	}
}

func (s *Server) deleteService(_ http.ResponseWriter, r *http.Request) error {
	return s.state.deregister(r.PathValue("id"))
}

// deregister removes a service, its checks, and the sidecar it came with.
func (st *state) deregister(id string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.services[id] == nil {
		return unknownService(id)
	}
	for _, each := range []string{id, id + sidecarSuffix} {
		gone := st.services[each]
		if gone == nil || (each != id && gone.parent != id) {
			continue
		}
		for checkID, c := range st.checks {
			if c.serviceID == each {
				delete(st.checks, checkID)
			}
		}
		delete(st.services, each)
		st.touch(gone)
		st.forget(gone)
	}
	st.updateAliases()
	st.wakeChecks()
	return nil
}

func unknownService(id string) error {
	return fail(http.StatusNotFound, "Unknown service ID %q. Ensure that the service ID is passed, not the service name.", id)
}

const noReason = "Maintenance mode is enabled for this service, but no reason was provided. This is a default message."

func (s *Server) putMaintenance(_ http.ResponseWriter, r *http.Request) error {
	text := r.URL.Query().Get("enable")
	if text == "" {
		return fail(http.StatusBadRequest, "Missing value for enable")
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return fail(http.StatusBadRequest, "Invalid value for enable: %q", text)
	}
	reason := r.URL.Query().Get("reason")
	if reason == "" {
		reason = noReason
	}
	return s.state.maintain(r.PathValue("id"), on, reason)
}

func (st *state) maintain(id string, on bool, reason string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	each := st.services[id]
	if each == nil {
		return unknownService(id)
	}
	checkID := "_service_maintenance:" + id
	_, is := st.checks[checkID]
	switch {
	case on && !is:
		at := st.touch(each)
		st.checks[checkID] = &check{
			id: checkID, name: "Service Maintenance Mode", notes: reason, status: critical,
			serviceID: id, kind: kindMaintenance, create: at, modify: at,
		}
	case !on && is:
		delete(st.checks, checkID)
		st.touch(each)
	}
	st.updateAliases()
	return nil
}

// getChecks shows what the agent's checks say.
func (s *Server) getChecks(w http.ResponseWriter, _ *http.Request) error {
	views := make(map[string]checkView)
	s.state.mu.Lock()
	for id, c := range s.state.checks {
		v := s.state.viewCheck(c)
		// The agent keeps no indexes of its own: they are the servers'.
		v.CreateIndex, v.ModifyIndex = 0, 0
		views[id] = v
	}
	s.state.mu.Unlock()
	return reply(w, views)
}

func (s *Server) putCheck(w http.ResponseWriter, r *http.Request) error {
	body, err := receive(w, r)
	if err != nil {
		return err
	}
	var update struct{ Status, Output string }
	if err := decode(body, &update); err != nil {
		return fail(http.StatusBadRequest, "Request decode failed: %v", err)
	}
	if !slices.Contains([]string{passing, warning, critical}, update.Status) {
		return fail(http.StatusBadRequest, "Invalid check status: '%s'", update.Status)
	}
	return s.state.heartbeat(r.PathValue("id"), update.Status, update.Output)
}

func (s *Server) setCheck(status string) handler {
	return func(_ http.ResponseWriter, r *http.Request) error {
		return s.state.heartbeat(r.PathValue("id"), status, r.URL.Query().Get("note"))
	}
}

// heartbeat sets the status of a TTL check and starts its time anew.
func (st *state) heartbeat(id, status, output string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	c := st.checks[id]
	switch {
	case c == nil:
		return fail(http.StatusNotFound, "Unknown check ID %q. Ensure that the check ID is passed, not the check name.", id)
	case c.kind != kindTTL:
		return refuse("CheckID %q does not have associated TTL", id)
	}
	c.expires = time.Now().Add(c.def.TTL.value)
	st.setStatus(c, status, truncate(output))
	st.updateAliases()
	st.wakeChecks()
	return nil
}

// truncate keeps what a check says short, as Consul does (4 KiB).
func truncate(output string) string {
	const most = 4 << 10
	if len(output) <= most {
		return output
	}
	return strings.ToValidUTF8(output[:most], "")
}
