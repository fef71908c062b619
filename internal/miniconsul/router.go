// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"slices"
)

// A router says which service a request to a service goes to (Consul, service
// router). The first route that matches counts.
type router struct {
	head
	Routes []route `json:",omitempty"`
}

type route struct {
	Match       *routeMatch       `json:",omitempty"`
	Destination *routeDestination `json:",omitempty"`
}

type routeMatch struct {
	HTTP *httpMatch `json:",omitempty"`
}

type httpMatch struct {
	PathExact       string        `json:",omitempty"`
	PathPrefix      string        `json:",omitempty"`
	PathRegex       string        `json:",omitempty"`
	CaseInsensitive bool          `json:",omitempty"`
	Header          []headerMatch `json:",omitempty"`
	QueryParam      []queryMatch  `json:",omitempty"`
	Methods         []string      `json:",omitempty"`
}

type headerMatch struct {
	Name    string
	Present bool   `json:",omitempty"`
	Exact   string `json:",omitempty"`
	Prefix  string `json:",omitempty"`
	Suffix  string `json:",omitempty"`
	Regex   string `json:",omitempty"`
	Invert  bool   `json:",omitempty"`
}

type queryMatch struct {
	Name    string
	Present bool   `json:",omitempty"`
	Exact   string `json:",omitempty"`
	Regex   string `json:",omitempty"`
}

type routeDestination struct {
	Service               string       `json:",omitempty"`
	ServiceSubset         string       `json:",omitempty"`
	Namespace             string       `json:",omitempty"`
	Partition             string       `json:",omitempty"`
	PrefixRewrite         string       `json:",omitempty"`
	RequestTimeout        duration     `json:",omitempty"`
	IdleTimeout           duration     `json:",omitempty"`
	NumRetries            uint32       `json:",omitempty"`
	RetryOnConnectFailure bool         `json:",omitempty"`
	RetryOn               []string     `json:",omitempty"`
	RetryOnStatusCodes    []uint32     `json:",omitempty"`
	RequestHeaders        *headerEdits `json:",omitempty"`
	ResponseHeaders       *headerEdits `json:",omitempty"`
}

// headerEdits are changes to the fields of a request or response.
type headerEdits struct {
	Add    map[string]string `json:",omitempty"`
	Set    map[string]string `json:",omitempty"`
	Remove []string          `json:",omitempty"`
}

func (e *router) complete() {
	for _, r := range e.Routes {
		if r.Match != nil && r.Match.HTTP != nil {
			upper(r.Match.HTTP.Methods)
		}
	}
}

func (e *router) validate() error {
	if len(e.Routes) > maxRoutes {
		return refuse("Routes: %w: at most %d routes of one service", errFull, maxRoutes)
	}
	for i, r := range e.Routes {
		var match httpMatch
		if r.Match != nil && r.Match.HTTP != nil {
			match = *r.Match.HTTP
		}
		if err := match.validate(); err != nil {
			return refuse("Route[%d] %w", i, err)
		}
		if d := r.Destination; d != nil {
			if err := d.validate(match); err != nil {
				return refuse("Route[%d] %w", i, err)
			}
		}
	}
	return nil
}

func (m *httpMatch) validate() error {
	if count(m.PathExact, m.PathPrefix, m.PathRegex) > 1 {
		return refuse("should only contain at most one of PathExact, PathPrefix, or PathRegex")
	}
	if err := checkPath("PathExact", m.PathExact); err != nil {
		return err
	}
	if err := checkPath("PathPrefix", m.PathPrefix); err != nil {
		return err
	}
	for i, h := range m.Header {
		if h.Name == "" {
			return refuse("Header[%d] missing required Name field", i)
		}
		if count(h.Exact, h.Prefix, h.Suffix, h.Regex, word(h.Present)) != 1 {
			return refuse("Header[%d] should only contain one of Present, Exact, Prefix, Suffix, or Regex", i)
		}
	}
	for i, q := range m.QueryParam {
		if q.Name == "" {
			return refuse("QueryParam[%d] missing required Name field", i)
		}
		if count(q.Exact, q.Regex, word(q.Present)) != 1 {
			return refuse("QueryParam[%d] should only contain one of Present, Exact, or Regex", i)
		}
	}
	return checkMethods("", m.Methods)
}

func (d *routeDestination) validate(m httpMatch) error {
	conditions := []string{
		"5xx", "gateway-error", "reset", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
		"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
	}
	if !isDefault(d.Namespace) || !isDefault(d.Partition) {
		return errElsewhere
	}
	if d.PrefixRewrite != "" && m.PathExact == "" && m.PathPrefix == "" {
		return refuse("cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix")
	}
	for _, condition := range d.RetryOn {
		if !slices.Contains(conditions, condition) {
			return refuse("contains an invalid retry condition: %q", condition)
		}
	}
	return nil
}

// A splitter says which share of the requests to a service goes where (Consul,
// service splitter).
type splitter struct {
	head
	Splits []split
}

type split struct {
	Weight          float32
	Service         string       `json:",omitempty"`
	ServiceSubset   string       `json:",omitempty"`
	Namespace       string       `json:",omitempty"`
	Partition       string       `json:",omitempty"`
	RequestHeaders  *headerEdits `json:",omitempty"`
	ResponseHeaders *headerEdits `json:",omitempty"`
}

// complete rounds weights to hundredths, which is all that they can tell.
func (e *splitter) complete() {
	for i := range e.Splits {
		e.Splits[i].Weight = float32(hundredths(e.Splits[i].Weight)) / 100
	}
}

func (e *splitter) validate() error {
	if len(e.Splits) == 0 {
		return refuse("no splits configured")
	}
	if len(e.Splits) > maxRoutes {
		return refuse("Splits: %w: at most %d splits of one service", errFull, maxRoutes)
	}
	sum := 0
	type place struct{ service, subset string }
	seen := make(map[place]bool)
	for i, s := range e.Splits {
		if !isDefault(s.Namespace) || !isDefault(s.Partition) {
			return refuse("Splits[%d]: %w", i, errElsewhere)
		}
		// Consul stores what makes 100 in sum, whatever its parts are.
		if s.Weight < 0 || s.Weight > 100 {
			return refuse("Splits[%d]: the weight is %v: the embedded mesh takes 0 to 100 only", i, s.Weight)
		}
		sum += hundredths(s.Weight)
		to := place{first(s.Service, e.Name), s.ServiceSubset}
		if seen[to] {
			return refuse("split destination occurs more than once: service=%q, subset=%q, namespace=\"\", partition=\"\"", s.Service, s.ServiceSubset)
		}
		seen[to] = true
	}
	if sum != 100*100 {
		return refuse("the sum of all split weights must be 100, not %f", float32(sum)/100)
	}
	return nil
}
