// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// The statuses of a check.
const (
	passing  = "passing"
	warning  = "warning"
	critical = "critical"
)

// The kinds of checks there are.
const (
	kindTCP         = "tcp"
	kindHTTP        = "http"
	kindTTL         = "ttl"
	kindAlias       = "alias"
	kindMaintenance = "maintenance"
)

const (
	minInterval    = time.Second // Consul's: who asks for less gets this
	defaultTimeout = 10 * time.Second
)

// A checkTime is a duration that is shown as it was written.
type checkTime struct {
	text  string
	value time.Duration
}

func newCheckTime(d time.Duration) checkTime { return checkTime{text: d.String(), value: d} }

// UnmarshalJSON reads "5s", "" or nanoseconds.
func (t *checkTime) UnmarshalJSON(text []byte) error {
	d, err := parseDuration(text)
	if err != nil {
		return err
	}
	t.value = d
	if json.Unmarshal(text, &t.text) != nil {
		t.text = d.String()
	}
	return nil
}

// A check is one health check and what it says. It is written to with the
// state locked.
type check struct {
	id, name, notes string
	serviceID       string
	kind            string
	def             checkDefinition
	generation      uint64 // differs for every registration

	status, output string
	expires        time.Time // of a TTL check
	good, bad      int       // results in a row
	create, modify uint64
}

// A checkView is a check as Consul shows it.
type checkView struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  struct{}
	CreateIndex uint64
	ModifyIndex uint64
}

func (st *state) viewCheck(c *check) checkView {
	v := checkView{
		Node: st.opts.NodeName, CheckID: c.id, Name: c.name, Status: c.status, Notes: c.notes, Output: c.output,
		ServiceID: c.serviceID, Type: c.kind, Interval: c.def.Interval.text, Timeout: c.def.Timeout.text,
		CreateIndex: c.create, ModifyIndex: c.modify, ServiceTags: []string{},
	}
	if s := st.services[c.serviceID]; s != nil {
		v.ServiceName, v.ServiceTags = s.def.Name, s.def.Tags
	}
	return v
}

func (d *checkDefinition) kind() string {
	switch {
	case d.TCP != "":
		return kindTCP
	case d.HTTP != "":
		return kindHTTP
	case d.AliasService != "" || d.AliasNode != "":
		return kindAlias
	}
	return kindTTL
}

// validate refuses what Consul refuses, and the kinds of checks that are not
// run here: one that is accepted and never run would lie.
func (d *checkDefinition) validate() error {
	if d == nil {
		return refuse("Invalid check: it is null")
	}
	if d.Status != "" && !slices.Contains([]string{passing, warning, critical}, d.Status) {
		return refuse("Status for checks must 'passing', 'warning', 'critical'")
	}
	other := len(d.ScriptArgs)+len(d.Args) > 0 || d.DockerContainerID+d.UDP+d.GRPC+d.H2PING+d.OSService != ""
	switch kind := d.kind(); {
	case other:
		return refuse("Invalid check: the embedded mesh runs TCP, HTTP, TTL and alias checks only")
	case kind == kindAlias && d.AliasService == "":
		return refuse("Invalid check: the embedded mesh has aliases of services only: set alias_service")
	case (kind == kindTCP || kind == kindHTTP) && d.Interval.value <= 0:
		return refuse("Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks")
	case kind == kindTTL && d.TTL.value <= 0:
		return refuse("Invalid check: TTL must be > 0 for TTL checks")
	}
	return nil
}

// newCheck makes the check of a service's i-th definition. It is critical until
// it has been run, unless the definition says otherwise.
func newCheck(s *service, i int, d *checkDefinition) *check {
	c := &check{
		id: d.CheckID, name: d.Name, notes: d.Notes, serviceID: s.def.ID,
		kind: d.kind(), def: *d, status: critical,
	}
	if d.Status != "" {
		c.status = d.Status
	}
	if c.id == "" {
		c.id = "service:" + s.def.ID
		if len(s.def.Checks) > 1 {
			c.id += ":" + strconv.Itoa(i+1)
		}
	}
	if c.name == "" {
		c.name = fmt.Sprintf("Service '%s' check", s.def.Name)
	}
	if c.kind == kindTTL {
		c.expires = time.Now().Add(d.TTL.value)
	}
	return c
}

// setStatus writes what a check says, with the state locked.
func (st *state) setStatus(c *check, status, output string) {
	if c.status == status && c.output == output {
		return
	}
	c.status, c.output = status, output
	if s := st.services[c.serviceID]; s != nil {
		c.modify = st.touch(s)
	}
}

// observe takes the outcome of one run. How many results in a row it takes to
// change the status is up to the definition.
func (st *state) observe(id string, generation uint64, status, output string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	c := st.checks[id]
	if c == nil || c.generation != generation {
		return // it was deregistered or replaced meanwhile
	}
	if status == critical {
		c.good = 0
		c.bad++
		toWarn := c.def.FailuresBeforeWarning
		if toWarn == 0 {
			toWarn = c.def.FailuresBeforeCritical
		}
		switch {
		case c.bad >= c.def.FailuresBeforeCritical:
		case c.bad >= toWarn:
			status = warning
		default:
			return
		}
	} else {
		c.bad = 0
		c.good++
		if c.good < c.def.SuccessBeforePassing {
			return
		}
	}
	st.setStatus(c, status, truncate(output))
	st.updateAliases()
}

// updateAliases brings alias checks up to date, with the state locked. An alias
// may follow another one, so it is repeated until nothing changes; aliases in a
// circle end it as well.
func (st *state) updateAliases() {
	ids := slices.Sorted(maps.Keys(st.checks))
	for range len(ids) + 1 {
		before := st.index
		for _, id := range ids {
			if c := st.checks[id]; c.kind == kindAlias {
				status, output := st.aliased(c, ids)
				st.setStatus(c, status, output)
			}
		}
		if st.index == before {
			return
		}
	}
}

// aliased is the worst of what the checks of an alias's service say.
func (st *state) aliased(alias *check, ids []string) (status, output string) {
	target := alias.def.AliasService
	if st.services[target] == nil {
		return critical, fmt.Sprintf("Service %s could not be found on node %s", target, alias.def.AliasNode)
	}
	status, output = passing, "No checks found."
	for _, id := range ids {
		c := st.checks[id]
		if c.serviceID != target || c == alias {
			continue
		}
		switch {
		case c.status == critical:
			return critical, fmt.Sprintf("Aliased check %q failing: %s", c.name, c.output)
		case c.status == warning:
			status, output = warning, fmt.Sprintf("Aliased check %q warning: %s", c.name, c.output)
		case status == passing:
			output = "All checks passing."
		}
	}
	return status, output
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
