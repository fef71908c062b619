// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// The kinds of config entries that the server acts on.
const (
	kindProxyDefaults   = "proxy-defaults"
	kindServiceDefaults = "service-defaults"
	kindRouter          = "service-router"
	kindSplitter        = "service-splitter"
	kindResolver        = "service-resolver"
	kindIntentions      = "service-intentions"
	kindMesh            = "mesh"
	kindJWTProvider     = "jwt-provider"
)

// otherKinds are those that Consul has and this server does not act on. They
// can be listed, and are never there.
func otherKinds() []string {
	return []string{
		"ingress-gateway", "terminating-gateway", "exported-services", "api-gateway",
		"bound-api-gateway", "file-system-certificate", "inline-certificate", "http-route", "tcp-route",
		"sameness-group", "control-plane-request-limit",
	}
}

type entryKey struct{ kind, name string }

// A head is what all config entries have.
type head struct {
	Kind        string
	Name        string            `json:",omitempty"`
	Namespace   string            `json:",omitempty"`
	Partition   string            `json:",omitempty"`
	Meta        map[string]string `json:",omitempty"`
	CreateIndex uint64
	ModifyIndex uint64
	Hash        uint64 `json:",omitempty"`
}

func (h *head) header() *head { return h }

func (h *head) key() entryKey {
	if h.Kind == kindMesh {
		return entryKey{kindMesh, kindMesh}
	}
	return entryKey{h.Kind, h.Name}
}

// An entry is one config entry. It is not written to once it is stored.
type entry interface {
	header() *head
	complete()       // fills in what Consul fills in
	validate() error // what can be told from the entry alone
}

// entries are all config entries. A map is copied to try a change.
type entries map[entryKey]entry

func newEntry(kind string) (entry, error) {
	switch kind {
	case kindProxyDefaults:
		return &proxyDefaults{}, nil
	case kindServiceDefaults:
		return &serviceDefaults{}, nil
	case kindResolver:
		return &resolver{}, nil
	case kindIntentions:
		return &serviceIntentions{}, nil
	case kindMesh:
		return &mesh{}, nil
	case kindRouter:
		return &router{}, nil
	case kindSplitter:
		return &splitter{}, nil
	case kindJWTProvider:
		return &jwtProvider{}, nil
	}
	if slices.Contains(otherKinds(), kind) {
		return nil, fail(http.StatusBadRequest, "%s: the embedded mesh does not have this kind of config entry: use a Consul server", kind)
	}
	return nil, fail(http.StatusBadRequest, "Request decoding failed: invalid config entry kind: %s", kind)
}

func isKind(kind string) bool {
	own := []string{kindProxyDefaults, kindServiceDefaults, kindRouter, kindSplitter, kindResolver, kindIntentions, kindMesh, kindJWTProvider}
	return slices.Contains(own, kind) || slices.Contains(otherKinds(), kind)
}

// list returns the entries of a kind, sorted by name.
func (e entries) list(kind string) []entry {
	found := []entry{}
	for key, each := range e {
		if key.kind == kind {
			found = append(found, each)
		}
	}
	slices.SortFunc(found, func(a, b entry) int { return strings.Compare(a.header().Name, b.header().Name) })
	return found
}

// global returns proxy-defaults, empty ones if there are none.
func (e entries) global() *proxyDefaults {
	if found, ok := e[entryKey{kindProxyDefaults, "global"}].(*proxyDefaults); ok {
		return found
	}
	return &proxyDefaults{}
}

// defaults returns the service-defaults of a service, empty ones if it has none.
func (e entries) defaults(service string) *serviceDefaults {
	if found, ok := e[entryKey{kindServiceDefaults, service}].(*serviceDefaults); ok {
		return found
	}
	return &serviceDefaults{}
}

// resolver returns the resolver of a service, nil if it has none.
func (e entries) resolver(service string) *resolver {
	found, _ := e[entryKey{kindResolver, service}].(*resolver)
	return found
}

// router returns the router of a service, nil if it has none.
func (e entries) router(service string) *router {
	found, _ := e[entryKey{kindRouter, service}].(*router)
	return found
}

// splitter returns the splitter of a service, nil if it has none.
func (e entries) splitter(service string) *splitter {
	found, _ := e[entryKey{kindSplitter, service}].(*splitter)
	return found
}

// protocol is how a service is spoken to, as chains and intentions see it. A
// service with service-defaults has the protocol of those, TCP if they name
// none; only without them does it have that of proxy-defaults. (What a sidecar
// is shown differs: there proxy-defaults fill in a protocol that is not named.)
func (e entries) protocol(service string) string {
	if own, ok := e[entryKey{kindServiceDefaults, service}].(*serviceDefaults); ok {
		return first(own.Protocol, "tcp")
	}
	return first(e.global().protocol(), "tcp")
}

func (s *Server) putEntry(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Has("cas") {
		return fail(http.StatusBadRequest, "the embedded mesh does not check and set config entries: leave cas out")
	}
	body, err := receive(w, r)
	if err != nil {
		return err
	}
	entry, err := parseEntry(body)
	if err != nil {
		return err
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	if err := s.state.putEntry(entry); err != nil {
		return err
	}
	return reply(w, true)
}

func parseEntry(body []byte) (entry, error) {
	var kind struct{ Kind string }
	if err := json.Unmarshal(body, &kind); err != nil {
		return nil, fail(http.StatusBadRequest, "Request decoding failed: %v", err)
	}
	entry, err := newEntry(kind.Kind)
	if err != nil {
		return nil, err
	}
	err = decode(body, entry)
	if unknown, ok := errors.AsType[*unknownKey](err); ok {
		return nil, fail(http.StatusBadRequest, "Request decoding failed: 1 error occurred:\n\t* invalid config key %q\n\n", unknown.path)
	}
	if err != nil {
		return nil, fail(http.StatusBadRequest, "Request decoding failed: %v", err)
	}
	return entry, nil
}

// putEntry stores an entry unless it is wrong or breaks a discovery chain. It
// is called with the state locked.
func (st *state) putEntry(e entry) error {
	h := e.header()
	e.complete()
	if !isDefault(h.Namespace) || !isDefault(h.Partition) {
		return errors.New("there is only the default namespace and partition")
	}
	key := h.key()
	if key.name == "" {
		return refuse("Name is required")
	}
	if err := e.validate(); err != nil {
		return err
	}
	if st.entries[key] == nil && len(st.entries) >= maxEntries {
		return fmt.Errorf("write %s %q: %w: at most %d config entries", h.Kind, h.Name, errFull, maxEntries)
	}
	next := maps.Clone(st.entries)
	next[key] = e
	if err := st.try(next, key); err != nil {
		return err
	}
	old := st.entries[key]
	st.replaceEntries(next)
	h.CreateIndex, h.ModifyIndex, h.Hash = st.index, st.index, 0
	if old != nil {
		h.CreateIndex = old.header().CreateIndex
	}
	if named := []string{kindServiceDefaults, kindRouter, kindSplitter, kindResolver, kindIntentions}; slices.Contains(named, h.Kind) && h.Name != anyName {
		st.assignVIP(h.Name)
	}
	return nil
}

// deleteEntry removes an entry unless others need it. It is called with the
// state locked.
func (st *state) deleteEntry(key entryKey) error {
	if st.entries[key] == nil {
		return nil
	}
	next := maps.Clone(st.entries)
	delete(next, key)
	if err := st.try(next, key); err != nil {
		return err
	}
	st.replaceEntries(next)
	return nil
}

// replaceEntries makes a change hold. Sidecars are shown merged with the
// defaults of the mesh, so that their answers may have changed too.
func (st *state) replaceEntries(next entries) {
	st.entries = next
	topics := []topic{configTopic, catalogTopic}
	for _, s := range st.services {
		if name := s.meshName(); name != "" {
			topics = append(topics, connectTopic(name), serviceTopic(s.def.Name))
		}
	}
	st.bump(topics...)
}

// try refuses entries that contradict each other: every chain that an entry
// takes part in must still compile, permissions need HTTP, and JWTs a provider.
// What changed is looked at first, so that the error is about it.
func (st *state) try(next entries, changed entryKey) error {
	if e, ok := next[changed].(*serviceIntentions); ok {
		if err := e.checkProviders(next); err != nil {
			return err
		}
	}
	if changed.kind == kindJWTProvider && next[changed] == nil {
		return next.checkUnused(changed.name)
	}
	keys := slices.SortedFunc(maps.Keys(next), func(a, b entryKey) int {
		return cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(a.name, b.name))
	})
	if i := slices.Index(keys, changed); i >= 0 {
		keys[0], keys[i] = keys[i], keys[0]
	}
	for _, key := range keys {
		each := next[key]
		switch each := each.(type) {
		case *router, *splitter, *resolver, *serviceDefaults:
			if _, err := compileChain(next, key.name, chainOptions{datacenter: st.opts.Datacenter, trustDomain: st.opts.TrustDomain}); err != nil {
				return err
			}
		case *serviceIntentions:
			protocol := next.protocol(key.name)
			for _, s := range each.Sources {
				if len(s.Permissions) > 0 && !speaksHTTP(protocol) && key.name != anyName {
					return fmt.Errorf("service %q has protocol %q, which is incompatible with L7 intentions permissions", key.name, protocol)
				}
			}
		}
	}
	return nil
}

func (s *Server) getEntries(w http.ResponseWriter, r *http.Request) error {
	kind := r.PathValue("kind")
	if !isKind(kind) {
		return fmt.Errorf("invalid config entry kind: %s", kind)
	}
	return s.block(w, r, func(st *state) (answer, error) {
		return answer{index: st.at(configTopic), value: st.entries.list(kind)}, nil
	})
}

func (s *Server) getEntry(w http.ResponseWriter, r *http.Request) error {
	key := entryKey{r.PathValue("kind"), r.PathValue("name")}
	if !isKind(key.kind) {
		return fmt.Errorf("invalid config entry kind: %s", key.kind)
	}
	return s.block(w, r, func(st *state) (answer, error) {
		a := answer{index: st.at(configTopic)}
		if found := st.entries[key]; found != nil {
			a.value = found
		} else {
			a.missing = fmt.Sprintf("Config entry not found for %q / %q", key.kind, key.name)
		}
		return a, nil
	})
}

func (s *Server) deleteEntry(w http.ResponseWriter, r *http.Request) error {
	key := entryKey{r.PathValue("kind"), r.PathValue("name")}
	if !isKind(key.kind) {
		return fmt.Errorf("invalid config entry kind: %s", key.kind)
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	if err := s.state.deleteEntry(key); err != nil {
		return err
	}
	return reply(w, struct{}{})
}
