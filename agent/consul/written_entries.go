// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A Written is one config entry as a person wrote it: a JSON object with names in
// any of Consul's spellings.
type Written struct {
	File string // for errors
	JSON []byte
}

// Entries are config entries that decide on who may call whom. They are
// immutable.
type Entries struct {
	// Notes are about what was passed over, one sentence each.
	Notes []string

	intentions map[string][]wireIntention // by destination
	protocols  map[string]string          // of services with service-defaults
	protocol   string                     // of proxy-defaults
	normalize  connect.Normalization
	providers  map[string]connect.JWTProvider
}

// ReadEntries reads service-intentions, service-defaults, proxy-defaults, mesh
// and jwt-provider; other kinds are passed over with a note. What it reads it
// reads strictly, since a name that is passed over may be the one that narrows a
// permission. The error names the file and what is wrong.
func ReadEntries(list []Written) (*Entries, error) {
	e := &Entries{intentions: map[string][]wireIntention{}, protocols: map[string]string{}, providers: map[string]connect.JWTProvider{}}
	from := map[[2]string]string{}
	for _, w := range list {
		var head struct{ Kind, Name string }
		if err := json.Unmarshal(w.JSON, &head); err != nil { // names in any case
			return nil, fmt.Errorf("%s: %w", w.File, err)
		}
		if head.Kind == "mesh" {
			head.Name = "mesh"
		}
		key := [2]string{head.Kind, head.Name}
		if first, twice := from[key]; twice {
			return nil, fmt.Errorf("%s: the %s %q is in %s already: the one written last would hold", w.File, head.Kind, head.Name, first)
		}
		from[key] = w.File
		if err := e.add(head.Kind, w); err != nil {
			return nil, fmt.Errorf("%s: %s %q: %w", w.File, head.Kind, head.Name, err)
		}
	}
	return e, nil
}

func (e *Entries) add(kind string, w Written) error {
	switch kind {
	case "service-intentions":
		return e.addIntentions(w.JSON)
	case "service-defaults":
		var d writtenDefaults
		if err := decodeEntry(w.JSON, &d, &d.writtenHead); err != nil {
			return err
		}
		e.protocols[d.Name] = strings.ToLower(d.Protocol)
	case "proxy-defaults":
		var d writtenProxyDefaults
		if err := decodeEntry(w.JSON, &d, &d.writtenHead); err != nil {
			return err
		}
		e.protocol = d.protocol()
	case "mesh":
		var m writtenMesh
		if err := decodeEntry(w.JSON, &m, &m.writtenHead); err != nil {
			return err
		}
		var err error
		e.normalize, err = m.normalization()
		return err
	case "jwt-provider":
		return e.addProvider(w.JSON)
	case "":
		return fmt.Errorf("it has no Kind, so it is no config entry")
	default:
		e.Notes = append(e.Notes, fmt.Sprintf("%s: passed over: a %s does not decide on who may call", w.File, kind))
	}
	return nil
}

func decodeEntry(text []byte, out any, head *writtenHead) error {
	if err := decodeWritten(text, out); err != nil {
		return err
	}
	return head.check()
}

func (e *Entries) addIntentions(text []byte) error {
	var w writtenIntentions
	if err := decodeEntry(text, &w, &w.writtenHead); err != nil {
		return err
	}
	list, err := w.intentions()
	if err != nil {
		return err
	}
	if _, err := convertRules(w.Name, list); err != nil {
		return err
	}
	e.intentions[w.Name] = list
	return nil
}

// addProvider reads a provider as it is read from Consul.
func (e *Entries) addProvider(text []byte) error {
	var w writtenProvider
	if err := decodeEntry(text, &w, &w.writtenHead); err != nil {
		return err
	}
	var provider wireJWTProvider
	if err := decodeWritten(text, &provider, "namespace", "partition", "meta", "createindex", "modifyindex", "hash", "cacheconfig", "usesni", "discoverytype"); err != nil {
		return err
	}
	sources, err := convertJWTProviders([]wireJWTProvider{provider})
	if err != nil {
		return err
	}
	e.providers[w.Name] = sources[w.Name].Provider
	return nil
}

// Refused says what Consul would refuse to store when these entries are all there
// are, one sentence each.
func (e *Entries) Refused() []string {
	var out []string
	for name, list := range e.intentions {
		for _, w := range list {
			if protocol := e.protocolOf(name); len(w.Permissions) > 0 && !connect.Protocol(protocol).Speaks() {
				out = append(out, fmt.Sprintf("%s has the protocol %s, with which Consul refuses Permissions: set Protocol in its service-defaults", name, protocol))
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// protocolOf is how the sidecar of a service is told to serve it.
func (e *Entries) protocolOf(service string) string {
	return either(either(e.protocols[service], e.protocol), string(connect.TCP))
}

// Destinations are the names that service-intentions are for, sorted; "*" may be
// among them.
func (e *Entries) Destinations() []string {
	var out []string
	for name := range e.intentions {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Policy is what decides on calls of a service when these entries are all there
// are. Default denies: entries do not say what it is.
func (e *Entries) Policy(service string) (Policy, error) {
	rules, err := e.rules(service)
	return Policy{
		Rules: rules, DefaultFrom: "nothing says otherwise", Protocol: connect.Protocol(e.protocolOf(service)),
		Normalization: e.normalize, Providers: e.providers,
	}, err
}

// rules are those for a service and for all of them.
func (e *Entries) rules(service string) ([]connect.Intention, error) {
	list := e.intentions[service]
	if service != connect.Wildcard {
		list = slices.Concat(list, e.intentions[connect.Wildcard])
	}
	rules, err := convertRules(service, list)
	if err != nil {
		return nil, fmt.Errorf("intentions for %q: %w", service, err)
	}
	return rules, nil
}

// Replace returns the rules for a service after these entries are written over
// those that are there: one entry takes the place of all rules of its
// destination. Of rules for the service itself that go, lost has the sources
// that the new ones do not name: for them a rule for all destinations may come
// to hold.
func (e *Entries) Replace(service string, rules []connect.Intention) (after []connect.Intention, lost []connect.Source, err error) {
	if after, err = e.rules(service); err != nil {
		return nil, nil, err
	}
	named := map[connect.Source]bool{}
	for _, r := range after {
		if r.Destination == service {
			named[r.Source] = true
		}
	}
	for _, r := range rules {
		_, replaced := e.intentions[r.Destination]
		switch {
		case !replaced:
			after = append(after, r)
		case r.Destination == service && !named[r.Source]:
			lost = append(lost, r.Source)
		}
	}
	return after, lost, nil
}
