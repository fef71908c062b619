// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"errors"
	"maps"
	"regexp"
	"slices"
)

// A resolver says where a service really is (Consul, service resolver).
type resolver struct {
	head
	DefaultSubset  string              `json:",omitempty"`
	Subsets        map[string]subset   `json:",omitempty"`
	Redirect       *redirect           `json:",omitempty"`
	Failover       map[string]failover `json:",omitempty"`
	ConnectTimeout duration            `json:",omitempty"`
	RequestTimeout duration            `json:",omitempty"`
	LoadBalancer   *loadBalancer       `json:",omitempty"`
}

type subset struct {
	Filter      string `json:",omitempty"`
	OnlyPassing bool   `json:",omitempty"`
}

type redirect struct {
	Service       string `json:",omitempty"`
	ServiceSubset string `json:",omitempty"`
	Namespace     string `json:",omitempty"`
	Partition     string `json:",omitempty"`
	Datacenter    string `json:",omitempty"`
	Peer          string `json:",omitempty"`
	SamenessGroup string `json:",omitempty"`
}

type failover struct {
	Service       string           `json:",omitempty"`
	ServiceSubset string           `json:",omitempty"`
	Namespace     string           `json:",omitempty"`
	Datacenters   []string         `json:",omitempty"`
	Targets       []failoverTarget `json:",omitempty"`
	Policy        map[string]any   `json:",omitempty"`
	SamenessGroup string           `json:",omitempty"`
}

type failoverTarget struct {
	Service       string `json:",omitempty"`
	ServiceSubset string `json:",omitempty"`
	Partition     string `json:",omitempty"`
	Namespace     string `json:",omitempty"`
	Datacenter    string `json:",omitempty"`
	Peer          string `json:",omitempty"`
}

type loadBalancer struct {
	Policy             string              `json:",omitempty"`
	RingHashConfig     *ringHashConfig     `json:",omitempty"`
	LeastRequestConfig *leastRequestConfig `json:",omitempty"`
	HashPolicies       []hashPolicy        `json:",omitempty"`
}

type ringHashConfig struct {
	MinimumRingSize uint64 `json:",omitempty"`
	MaximumRingSize uint64 `json:",omitempty"`
}

type leastRequestConfig struct {
	ChoiceCount uint32 `json:",omitempty"`
}

type hashPolicy struct {
	Field        string        `json:",omitempty"`
	FieldValue   string        `json:",omitempty"`
	CookieConfig *cookieConfig `json:",omitempty"`
	SourceIP     bool          `json:",omitempty"`
	Terminal     bool          `json:",omitempty"`
}

type cookieConfig struct {
	Session bool   `json:",omitempty"`
	TTL     span   `json:",omitempty"`
	Path    string `json:",omitempty"`
}

func (e *resolver) complete() {}

// isDefault reports whether the resolver changes nothing.
func (e *resolver) isDefault() bool {
	return e == nil || e.DefaultSubset == "" && len(e.Subsets) == 0 && e.Redirect == nil && len(e.Failover) == 0 &&
		e.ConnectTimeout == 0 && e.RequestTimeout == 0 && e.LoadBalancer == nil
}

func (e *resolver) validate() error {
	// A subset is a label of the SNI.
	label := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	for _, name := range slices.Sorted(maps.Keys(e.Subsets)) {
		if !label.MatchString(name) {
			return refuse("Subset %q is invalid: must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric characters or '-' in between", name)
		}
		if _, err := parseFilter(e.Subsets[name].Filter); err != nil {
			return refuse("Filter for subset %q is not a valid expression: %w", name, err)
		}
	}
	if !e.has(e.DefaultSubset) {
		return refuse("DefaultSubset %q is not a valid subset", e.DefaultSubset)
	}
	if e.Redirect != nil {
		if len(e.Failover) > 0 {
			return refuse("Redirect and Failover cannot both be set")
		}
		if err := e.validateRedirect(); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Failover)) {
		if err := e.validateFailover(key, e.Failover[key]); err != nil {
			return refuse("Bad Failover[%q]: %w", key, err)
		}
	}
	if e.ConnectTimeout < 0 || e.RequestTimeout < 0 {
		return refuse("Bad ConnectTimeout or RequestTimeout: must be >= 0")
	}
	return e.LoadBalancer.validate()
}

func (lb *loadBalancer) validate() error {
	policies := []string{"", "random", "round_robin", "least_request", "ring_hash", "maglev"}
	switch {
	case lb == nil:
		return nil
	case !slices.Contains(policies, lb.Policy):
		return refuse("Bad LoadBalancer policy: %q is not supported", lb.Policy)
	case lb.Policy != "ring_hash" && lb.RingHashConfig != nil:
		return refuse("Bad LoadBalancer configuration. RingHashConfig specified for incompatible load balancing policy %q", lb.Policy)
	case lb.Policy != "least_request" && lb.LeastRequestConfig != nil:
		return refuse("Bad LoadBalancer configuration. LeastRequestConfig specified for incompatible load balancing policy %q", lb.Policy)
	case !lb.hashes() && len(lb.HashPolicies) > 0:
		return refuse("Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: %q", lb.Policy)
	}
	for i, h := range lb.HashPolicies {
		if err := h.validate(); err != nil {
			return refuse("Bad LoadBalancer HashPolicy[%d]: %w", i, err)
		}
	}
	return nil
}

func (h hashPolicy) validate() error {
	switch {
	case h.Field != "" && !slices.Contains([]string{"header", "cookie", "query_parameter"}, h.Field):
		return refuse("%q is not a supported field", h.Field)
	case h.SourceIP && h.Field != "":
		return refuse("A single hash policy cannot hash both a source address and a %q", h.Field)
	case h.Field != "" && h.FieldValue == "":
		return refuse("Field %q was specified without a FieldValue", h.Field)
	case h.FieldValue != "" && h.Field == "":
		return refuse("FieldValue requires a Field to apply to")
	case h.CookieConfig != nil && h.Field != "cookie":
		return refuse("cookie_config provided for %q", h.Field)
	case h.CookieConfig != nil && h.CookieConfig.Session && h.CookieConfig.TTL != 0:
		return refuse("a session cookie cannot have an associated TTL")
	}
	return nil
}

func (e *resolver) has(name string) bool {
	_, ok := e.Subsets[name]
	return ok || name == ""
}

var errElsewhere = errors.New("the embedded mesh has one namespace, one partition, no peers and no sameness groups")

func (e *resolver) validateRedirect() error {
	r := e.Redirect
	switch {
	case r.Peer != "" || r.SamenessGroup != "" || !isDefault(r.Namespace) || !isDefault(r.Partition):
		return refuse("Bad Redirect: %w", errElsewhere)
	case r.Service == "" && r.ServiceSubset == "" && r.Datacenter == "":
		return refuse("Redirect is empty")
	case r.ServiceSubset != "" && r.Service == "":
		return refuse("Redirect.ServiceSubset defined without Redirect.Service")
	}
	return nil
}

func (e *resolver) validateFailover(key string, f failover) error {
	if key != anyName && (key == "" || !e.has(key)) {
		return errors.New("not a valid subset subset")
	}
	switch {
	case f.SamenessGroup != "" || !isDefault(f.Namespace):
		return errElsewhere
	case f.Policy != nil:
		return refuse("Setting failover policies requires Consul Enterprise")
	case f.Service == "" && f.ServiceSubset == "" && len(f.Datacenters) == 0 && len(f.Targets) == 0:
		return errors.New("one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required")
	case len(f.Targets) > 0 && (f.Service != "" || f.ServiceSubset != "" || len(f.Datacenters) > 0):
		return refuse("Targets cannot be set with Service, ServiceSubset or Datacenters")
	case (f.Service == "" || f.Service == e.Name) && !e.has(f.ServiceSubset):
		return refuse("ServiceSubset %q is not a valid subset of %q", f.ServiceSubset, f.Service)
	}
	for _, t := range f.Targets {
		if t.Peer != "" || !isDefault(t.Namespace) || !isDefault(t.Partition) {
			return errElsewhere
		}
		if (t.Service == "" || t.Service == e.Name) && !e.has(t.ServiceSubset) {
			return refuse("ServiceSubset %q is not a valid subset of %q", t.ServiceSubset, t.Service)
		}
	}
	return nil
}
