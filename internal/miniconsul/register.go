// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The ports that sidecars are given (Consul, ports.sidecar_min_port and
// ports.sidecar_max_port).
const (
	sidecarMinPort = 21000
	sidecarMaxPort = 21255

	sidecarSuffix = "-sidecar-proxy"

	sidecarCheckInterval = 10 * time.Second
)

// register adds a service, its checks and its sidecar, or replaces them. What
// the definition leaves out is filled in as Consul does. With replace, checks
// of earlier registrations go. Nothing changes when it returns an error.
func (st *state) register(d definition, replace bool) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	sidecar, err := prepare(&d)
	if err != nil {
		return err
	}
	all := []*definition{&d}
	if sidecar != nil {
		if err := st.givePort(sidecar); err != nil {
			return err
		}
		addSidecarChecks(sidecar, d.ID)
		all = append(all, sidecar)
	}
	for _, each := range all {
		if err := validate(each); err != nil {
			return err
		}
	}
	if err := st.room(all); err != nil {
		return err
	}
	for i, each := range all {
		parent := ""
		if i > 0 {
			parent = d.ID
		}
		st.put(*each, parent, replace)
	}
	st.updateAliases()
	st.wakeChecks()
	return nil
}

// prepare fills in a definition and splits off its sidecar, nil for none.
func prepare(d *definition) (*definition, error) {
	if d.Name == "" {
		return nil, refuse("Missing service name")
	}
	if d.ID == "" {
		d.ID = d.Name
	}
	complete(d)
	if d.Connect == nil || d.Connect.SidecarService == nil {
		return nil, nil
	}
	sidecar := *d.Connect.SidecarService
	d.Connect = &connectBlock{Native: d.Connect.Native}
	switch {
	case sidecar.ID != "":
		return nil, invalid("A SidecarService cannot specify an ID as this is managed by the agent")
	case sidecar.Connect != nil && sidecar.Connect.SidecarService != nil:
		return nil, invalid("A SidecarService cannot have a nested SidecarService")
	}
	inherit(&sidecar, d)
	complete(&sidecar)
	return &sidecar, nil
}

// complete fills in what every service has.
func complete(d *definition) {
	if d.Tags == nil {
		d.Tags = []string{}
	}
	if d.Meta == nil {
		d.Meta = map[string]string{}
	}
	if d.Weights == nil {
		d.Weights = &weights{Passing: 1, Warning: 1}
	}
	if d.Check != nil {
		d.Checks = append([]*checkDefinition{d.Check}, d.Checks...)
		d.Check = nil
	}
	if d.Proxy != nil {
		for i := range d.Proxy.Upstreams {
			if u := &d.Proxy.Upstreams[i]; u.DestinationType == "" {
				u.DestinationType = "service"
			}
		}
	}
	tagAddresses(d)
}

// tagAddresses adds the addresses that Consul derives from a literal one.
func tagAddresses(d *definition) {
	ip, err := netip.ParseAddr(d.Address)
	if err != nil {
		return
	}
	family := "ipv6"
	if ip.Is4() {
		family = "ipv4"
	}
	d.TaggedAddresses = maps.Clone(d.TaggedAddresses)
	if d.TaggedAddresses == nil {
		d.TaggedAddresses = make(map[string]address)
	}
	for _, tag := range []string{"lan_" + family, "wan_" + family} {
		if _, has := d.TaggedAddresses[tag]; !has {
			d.TaggedAddresses[tag] = address{Address: d.Address, Port: d.Port}
		}
	}
}

// inherit fills in a sidecar from its service (Consul, sidecar service
// registration).
func inherit(s, parent *definition) {
	s.ID = parent.ID + sidecarSuffix
	if s.Name == "" {
		s.Name = parent.Name + sidecarSuffix
	}
	s.Kind = kindProxy
	if s.Address == "" {
		s.Address = parent.Address
	}
	if s.Tags == nil {
		s.Tags = slices.Clone(parent.Tags)
	}
	if s.Meta == nil {
		s.Meta = maps.Clone(parent.Meta)
	}
	if s.Locality == nil {
		s.Locality = parent.Locality
	}
	p := proxy{}
	if s.Proxy != nil {
		p = *s.Proxy
	}
	p.DestinationServiceName, p.DestinationServiceID = parent.Name, parent.ID
	if parent.SocketPath != "" && p.LocalServiceSocketPath == "" {
		p.LocalServiceSocketPath = parent.SocketPath
	}
	if p.LocalServiceSocketPath == "" {
		if p.LocalServiceAddress == "" {
			p.LocalServiceAddress = "127.0.0.1"
		}
		if p.LocalServicePort == 0 {
			p.LocalServicePort = parent.Port
		}
	}
	s.Proxy = &p
}

// givePort gives a sidecar without a port the one it had, else the lowest that
// no service has.
func (st *state) givePort(s *definition) error {
	if s.Port != 0 || s.SocketPath != "" {
		return nil
	}
	if old := st.services[s.ID]; old != nil && old.def.Port >= sidecarMinPort && old.def.Port <= sidecarMaxPort {
		s.Port = old.def.Port
		tagAddresses(s)
		return nil
	}
	taken := make(map[int]bool)
	for _, other := range st.services {
		taken[other.def.Port] = true
	}
	for port := sidecarMinPort; port <= sidecarMaxPort; port++ {
		if !taken[port] {
			s.Port = port
			for tag, a := range s.TaggedAddresses {
				if a.Port == 0 {
					s.TaggedAddresses[tag] = address{Address: a.Address, Port: port}
				}
			}
			return nil
		}
	}
	return fmt.Errorf("none left in the configured sidecar port range [%d, %d]", sidecarMinPort, sidecarMaxPort)
}

// addSidecarChecks adds the two checks of a sidecar that brings none.
func addSidecarChecks(s *definition, parentID string) {
	if len(s.Checks) > 0 {
		return
	}
	host := s.Address
	if host == "" {
		host = s.Proxy.LocalServiceAddress
	}
	s.Checks = []*checkDefinition{
		{Name: "Connect Sidecar Listening", TCP: joinHostPort(host, s.Port), Interval: newCheckTime(sidecarCheckInterval)},
		{Name: "Connect Sidecar Aliasing " + parentID, AliasService: parentID},
	}
}

var errKinds = errors.New("the embedded mesh knows services and sidecars only")

// validate refuses what Consul refuses, and what this server cannot do.
func validate(d *definition) error {
	var found []string
	if d.Kind == kindProxy {
		found = proxyProblems(d)
	} else if d.Kind != "" {
		return refuse("Invalid kind %q: %w", d.Kind, errKinds)
	}
	if len(found) > 0 {
		return invalid(found...)
	}
	if !isDefault(d.Namespace) || !isDefault(d.Partition) {
		return refuse("Invalid namespace or partition: there is only the default one")
	}
	key := regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	for k, v := range d.Meta {
		if !key.MatchString(k) {
			return refuse("Invalid Service Meta: Couldn't load metadata pair ('%s', '%s'): Key contains invalid characters", k, v)
		}
	}
	for _, c := range d.Checks {
		if err := c.validate(); err != nil {
			return err
		}
	}
	return nil
}

func proxyProblems(d *definition) []string {
	var found []string
	if d.Port == 0 && d.SocketPath == "" {
		found = append(found, "Port or SocketPath must be set for a connect-proxy")
	}
	if d.Proxy == nil || d.Proxy.DestinationServiceName == "" {
		return append(found, "Proxy.DestinationServiceName must be non-empty for Connect proxy services")
	}
	for _, u := range d.Proxy.Upstreams {
		if u.DestinationName == "" {
			found = append(found, "upstream destination name cannot be empty")
		}
		if u.LocalBindPort == 0 && u.LocalBindSocketPath == "" && d.Proxy.Mode != "transparent" {
			found = append(found, "upstream local bind port or local socket path must be defined and nonzero")
		}
	}
	return found
}

func invalid(found ...string) error {
	noun := "errors"
	if len(found) == 1 {
		noun = "error"
	}
	return refuse("Validation failed: %d %s occurred:\n\t* %s\n\n", len(found), noun, strings.Join(found, "\n\t* "))
}

func isDefault(name string) bool { return name == "" || strings.EqualFold(name, "default") }

// room refuses what would be too much.
func (st *state) room(all []*definition) error {
	services, checks := len(st.services), len(st.checks)
	for _, d := range all {
		if st.services[d.ID] == nil {
			services++
		}
		checks += len(d.Checks)
	}
	if services > maxServices || checks > maxChecks {
		return fmt.Errorf("register service %q: %w: at most %d services and %d checks", all[0].ID, errFull, maxServices, maxChecks)
	}
	return nil
}
