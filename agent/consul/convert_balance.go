// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"slices"

	"github.com/outrider-mesh/outrider/connect"
)

type wireLoadBalancer struct {
	Policy             string
	LeastRequestConfig *struct{ ChoiceCount int64 }
	RingHashConfig     *struct{ MinimumRingSize, MaximumRingSize int64 }
	HashPolicies       []wireHashPolicy
}

type wireHashPolicy struct {
	Field, FieldValue  string
	CookieConfig       *wireCookie
	SourceIP, Terminal bool
}

type wireCookie struct {
	Session bool
	TTL     any // nanoseconds
	Path    string
}

const (
	// maxRing is the largest ring that Envoy makes.
	maxRing = 8 << 20
	// maxChoices bounds the endpoints that are compared for one request; more
	// choose no better.
	maxChoices = 128
	// maxHashPolicies bounds what is hashed of one request.
	maxHashPolicies = 64
)

// policies are those of Consul (Consul, service-resolver: load_balancer).
var policies = []string{"", "round_robin", "random", "least_request", "ring_hash", "maglev"}

// convertBalance reads a load balancer; nil is the zero one.
func convertBalance(w *wireLoadBalancer) (connect.LoadBalancer, error) {
	var lb connect.LoadBalancer
	if w == nil {
		return lb, nil
	}
	if !slices.Contains(policies, w.Policy) {
		return lb, fmt.Errorf("load balancer policy %.40q is not known", w.Policy)
	}
	lb.Policy = w.Policy
	if c := w.LeastRequestConfig; c != nil {
		if c.ChoiceCount < 0 {
			return lb, fmt.Errorf("ChoiceCount is %d", c.ChoiceCount)
		}
		lb.ChoiceCount = int(min(c.ChoiceCount, maxChoices))
	}
	if c := w.RingHashConfig; c != nil {
		if c.MinimumRingSize < 0 || c.MaximumRingSize < 0 || max(c.MinimumRingSize, c.MaximumRingSize) > maxRing {
			return lb, fmt.Errorf("the ring is to have %d to %d places, want 0 to %d", c.MinimumRingSize, c.MaximumRingSize, maxRing)
		}
		if c.MaximumRingSize != 0 && c.MinimumRingSize > c.MaximumRingSize {
			return lb, fmt.Errorf("MinimumRingSize %d is above MaximumRingSize %d", c.MinimumRingSize, c.MaximumRingSize)
		}
		lb.MinRingSize, lb.MaxRingSize = int(c.MinimumRingSize), int(c.MaximumRingSize)
	}
	if err := sizes("hash policies", len(w.HashPolicies), maxHashPolicies); err != nil {
		return lb, err
	}
	for i, h := range w.HashPolicies {
		p, err := h.convert()
		if err != nil {
			return lb, fmt.Errorf("hash policy %d: %w", i+1, err)
		}
		lb.Hash = append(lb.Hash, p)
	}
	return lb, nil
}

func (w wireHashPolicy) convert() (connect.HashPolicy, error) {
	p := connect.HashPolicy{Field: w.Field, Value: w.FieldValue, SourceIP: w.SourceIP, Terminal: w.Terminal}
	switch {
	case w.SourceIP && w.Field != "":
		return p, fmt.Errorf("it hashes the source address and a %.40q", w.Field)
	case !w.SourceIP && !slices.Contains([]string{"header", "cookie", "query_parameter"}, w.Field):
		return p, fmt.Errorf("field %.40q is not known", w.Field)
	case !w.SourceIP && (w.FieldValue == "" || len(w.FieldValue) > maxText):
		return p, fmt.Errorf("the name of the %s is missing or too long", w.Field)
	case (w.Field == "header" || w.Field == "cookie") && !isToken(w.FieldValue):
		return p, fmt.Errorf("no %s can have the name %q", w.Field, w.FieldValue)
	case w.CookieConfig == nil:
		return p, nil
	case w.Field != "cookie":
		return p, errors.New("it is not about a cookie and says how to make one")
	}
	ttl, err := optionalDuration(w.CookieConfig.TTL)
	switch {
	case err != nil:
		return p, fmt.Errorf("TTL of the cookie: %w", err)
	case ttl != 0 && w.CookieConfig.Session:
		return p, errors.New("a session cookie cannot have a TTL")
	case len(w.CookieConfig.Path) > maxText || !isFieldValue(w.CookieConfig.Path):
		return p, errors.New("the path of the cookie cannot be written")
	}
	p.Cookie = &connect.CookieConfig{Session: w.CookieConfig.Session, TTL: ttl, Path: w.CookieConfig.Path}
	return p, nil
}
