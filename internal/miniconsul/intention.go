// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

const anyName = "*"

// A serviceIntentions entry holds the intentions for one destination, in
// Consul's order.
type serviceIntentions struct {
	head
	JWT     *jwtRequirement   `json:",omitempty"`
	Sources []intentionSource `json:",omitempty"`
}

type intentionSource struct {
	Name          string
	Namespace     string       `json:",omitempty"`
	Partition     string       `json:",omitempty"`
	Peer          string       `json:",omitempty"`
	SamenessGroup string       `json:",omitempty"`
	Action        string       `json:",omitempty"`
	Permissions   []permission `json:",omitempty"`
	Precedence    int
	Type          string
	Description   string            `json:",omitempty"`
	LegacyID      string            `json:",omitempty"`
	LegacyMeta    map[string]string `json:",omitempty"`
}

// complete fills in what Consul fills in: precedence, type and order.
func (e *serviceIntentions) complete() {
	for i := range e.Sources {
		s := &e.Sources[i]
		s.Precedence = precedence(s.Name, e.Name)
		if s.Type == "" {
			s.Type = "consul"
		}
		for _, p := range s.Permissions {
			if p.HTTP != nil {
				upper(p.HTTP.Methods)
			}
		}
	}
	slices.SortStableFunc(e.Sources, func(a, b intentionSource) int { return cmp.Compare(b.Precedence, a.Precedence) })
}

// precedence is Consul's: an exact destination before any, then an exact
// source before any (Consul, intention precedence; without namespaces).
func precedence(source, destination string) int {
	p := 9
	if destination == anyName {
		p = 6
	}
	if source == anyName {
		p--
	}
	return p
}

func (e *serviceIntentions) validate() error {
	if err := checkIntentionName(e.Name); err != nil {
		return refuse("Name: %w", err)
	}
	if len(e.Sources) == 0 {
		return refuse("At least one source is required")
	}
	if len(e.Sources) > maxSources {
		return refuse("Sources: %w: at most %d sources for one destination", errFull, maxSources)
	}
	seen := make(map[string]bool)
	for i, s := range e.Sources {
		if err := s.validate(); err != nil {
			return fmt.Errorf("Sources[%d].%w", i, err)
		}
		if seen[s.Name] {
			return refuse("Sources[%d] defines %q more than once", i, s.Name)
		}
		if e.Name == anyName && len(s.Permissions) > 0 {
			return refuse("Sources[%d].Permissions cannot be specified on intentions with wildcarded destinations", i)
		}
		seen[s.Name] = true
	}
	return nil
}

func (s *intentionSource) validate() error {
	if err := checkIntentionName(s.Name); err != nil {
		return refuse("Name: %w", err)
	}
	if !isDefault(s.Namespace) || !isDefault(s.Partition) || s.Peer != "" || s.SamenessGroup != "" {
		return refuse("Name: the embedded mesh has one namespace and no peers")
	}
	if len(s.Permissions) == 0 {
		if s.Action != "allow" && s.Action != "deny" {
			return refuse("Action must be set to 'allow' or 'deny'")
		}
		return nil
	}
	if s.Action != "" {
		return refuse("Action must be omitted if Permissions are specified")
	}
	for i, p := range s.Permissions {
		if err := p.validate(); err != nil {
			return refuse("Permissions[%d]%w", i, err)
		}
	}
	return nil
}

func checkIntentionName(name string) error {
	switch {
	case name == "":
		return errors.New("it is required")
	case name != anyName && strings.ContainsAny(name, "*/"):
		return fmt.Errorf(`%q: want the name of a service or "*": there are no partial wildcards and no namespaces`, name)
	}
	return nil
}

// An intentionView is one intention as Consul shows it.
type intentionView struct {
	Description     string `json:",omitempty"`
	SourceNS        string
	SourceName      string
	DestinationNS   string
	DestinationName string
	SourceType      string
	Action          string            `json:",omitempty"`
	Permissions     []permission      `json:",omitempty"`
	JWT             *jwtRequirement   `json:",omitempty"`
	Meta            map[string]string `json:",omitempty"`
	Precedence      int
	CreateIndex     uint64
	ModifyIndex     uint64
}

func (e *serviceIntentions) views() []intentionView {
	var out []intentionView
	for _, s := range e.Sources {
		out = append(out, intentionView{
			Description: s.Description, SourceNS: "default", SourceName: s.Name,
			DestinationNS: "default", DestinationName: e.Name, SourceType: s.Type,
			Action: s.Action, Permissions: s.Permissions, JWT: e.JWT, Meta: e.Meta, Precedence: s.Precedence,
			CreateIndex: e.CreateIndex, ModifyIndex: e.ModifyIndex,
		})
	}
	return out
}

// intentions returns those that keep accepts, first the one that decides.
func (st *state) intentions(keep func(intentionView) bool) []intentionView {
	out := []intentionView{}
	for _, each := range st.entries.list(kindIntentions) {
		for _, v := range each.(*serviceIntentions).views() {
			if keep(v) {
				out = append(out, v)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b intentionView) int {
		return cmp.Or(cmp.Compare(b.Precedence, a.Precedence), cmp.Compare(a.SourceName, b.SourceName), cmp.Compare(a.DestinationName, b.DestinationName))
	})
	return out
}

// matching returns the intentions that speak of a service.
func (st *state) matching(by, name string) []intentionView {
	return st.intentions(func(v intentionView) bool {
		end := v.DestinationName
		if by == "source" {
			end = v.SourceName
		}
		return end == name || end == anyName
	})
}

func (s *Server) getIntentions(w http.ResponseWriter, r *http.Request) error {
	return s.block(w, r, func(st *state) (answer, error) {
		all := st.intentions(func(intentionView) bool { return true })
		return answer{index: st.at(configTopic), value: all}, nil
	})
}

func (s *Server) matchIntentions(w http.ResponseWriter, r *http.Request) error {
	by, err := required(r, "by")
	if err != nil {
		return err
	}
	if by != "source" && by != "destination" {
		return errors.New("'by' parameter must be one of 'source' or 'destination'")
	}
	if _, err := required(r, "name"); err != nil {
		return err
	}
	names := r.URL.Query()["name"]
	return s.block(w, r, func(st *state) (answer, error) {
		matches := make(map[string][]intentionView)
		for _, name := range names {
			matches[name] = st.matching(by, name)
		}
		return answer{index: st.at(configTopic), value: matches}, nil
	})
}

// checkIntention says whether a connection would be let through. Permissions
// cannot be judged without a request: they deny.
func (s *Server) checkIntention(w http.ResponseWriter, r *http.Request) error {
	source, destination, err := ends(r)
	if err != nil {
		return err
	}
	allowed := s.opts.DefaultAllow
	s.state.mu.Lock()
	for _, v := range s.state.matching("destination", destination) {
		if v.SourceName == source || v.SourceName == anyName {
			allowed = v.Action == "allow"
			break
		}
	}
	s.state.mu.Unlock()
	return reply(w, struct{ Allowed bool }{allowed})
}

func ends(r *http.Request) (source, destination string, err error) {
	if source, err = required(r, "source"); err != nil {
		return "", "", err
	}
	destination, err = required(r, "destination")
	return source, destination, err
}

func (s *Server) getIntention(w http.ResponseWriter, r *http.Request) error {
	source, destination, err := ends(r)
	if err != nil {
		return err
	}
	s.state.mu.Lock()
	found := s.state.intentions(func(v intentionView) bool {
		return v.SourceName == source && v.DestinationName == destination
	})
	s.state.mu.Unlock()
	if len(found) == 0 {
		return fail(http.StatusNotFound, "Intention not found")
	}
	return reply(w, found[0])
}

func (s *Server) putIntention(w http.ResponseWriter, r *http.Request) error {
	source, destination, err := ends(r)
	if err != nil {
		return err
	}
	body, err := receive(w, r)
	if err != nil {
		return err
	}
	// The ends are those of the address; a body may repeat them.
	var wanted struct {
		ID, Description, SourceType, Action, SourcePeer, SourceSamenessGroup                        string
		SourceNS, SourceName, SourcePartition, DestinationNS, DestinationName, DestinationPartition string
		Permissions                                                                                 []permission
		Meta                                                                                        map[string]string
		Precedence                                                                                  int
		CreatedAt, UpdatedAt                                                                        string
		Hash                                                                                        []byte
		CreateIndex, ModifyIndex                                                                    uint64
	}
	if err := decode(body, &wanted); err != nil {
		return fail(http.StatusBadRequest, "Request decode failed: %v", err)
	}
	if wanted.SourcePeer != "" || wanted.SourceSamenessGroup != "" {
		return fail(http.StatusBadRequest, "the embedded mesh has no peers")
	}
	err = s.state.putIntention(destination, intentionSource{
		Name: source, Action: wanted.Action, Permissions: wanted.Permissions, Description: wanted.Description,
	})
	if err != nil {
		return err
	}
	return reply(w, true)
}

// putIntention adds or replaces the intention of one source.
func (st *state) putIntention(destination string, source intentionSource) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	entry := &serviceIntentions{head: head{Kind: kindIntentions, Name: destination}}
	if old, ok := st.entries[entryKey{kindIntentions, destination}].(*serviceIntentions); ok {
		*entry = *old
		entry.Sources = slices.Clone(old.Sources)
	}
	if i := slices.IndexFunc(entry.Sources, func(s intentionSource) bool { return s.Name == source.Name }); i >= 0 {
		entry.Sources[i] = source
	} else {
		entry.Sources = append(entry.Sources, source)
	}
	return st.putEntry(entry)
}

func (s *Server) deleteIntention(w http.ResponseWriter, r *http.Request) error {
	source, destination, err := ends(r)
	if err != nil {
		return err
	}
	if err := s.state.deleteIntention(destination, source); err != nil {
		return err
	}
	return reply(w, true)
}

// deleteIntention removes the intention of one source, and the entry with its
// last one.
func (st *state) deleteIntention(destination, source string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	key := entryKey{kindIntentions, destination}
	old, ok := st.entries[key].(*serviceIntentions)
	if !ok {
		return nil
	}
	entry := *old
	entry.Sources = slices.DeleteFunc(slices.Clone(old.Sources), func(s intentionSource) bool { return s.Name == source })
	switch len(entry.Sources) {
	case len(old.Sources):
		return nil
	case 0:
		return st.deleteEntry(key)
	}
	return st.putEntry(&entry)
}
