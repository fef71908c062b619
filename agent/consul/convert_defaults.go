// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// ServiceDefaults is what the service-defaults config entry of a service says
// about its own instances and that a registration does not carry. The zero
// value means that nothing is configured.
type ServiceDefaults struct {
	RateLimits connect.RateLimits
	Faults     []connect.Fault
	Warnings   []string // what is asked for and will not be done
}

// Keys of the entry's Meta. Consul Community Edition refuses to store an entry
// with rate_limits and has no word for faults; text under a key of Meta it
// stores, up to 512 bytes for each (Consul, service-defaults: meta).
const (
	ourKeys       = "outrider-"
	rateLimitsKey = ourKeys + "rate-limits"
	faultsKey     = ourKeys + "faults"
	maxBodyKey    = ourKeys + "max-request-bytes"
)

type wireDefaults struct {
	Kind, Name string
	RateLimits *wireRateLimits
	Meta       map[string]string
}

type wireRateLimits struct {
	InstanceLevel *struct {
		RequestsPerSecond, RequestsMaxBurst int64
		Routes                              []wireRouteLimit
	}
}

type wireRouteLimit struct {
	PathExact, PathPrefix, PathRegex    string
	RequestsPerSecond, RequestsMaxBurst int64
}

type wireFault struct {
	PathExact, PathPrefix, PathRegex string
	Methods                          []string
	Header                           []wireHeaderMatch
	Delay                            any
	DelayPercent                     float64
	AbortStatus                      int
	AbortPercent                     float64
}

const (
	maxFaultDelay = 5 * time.Minute // a request that waits holds memory
	maxFaults     = 64
	maxRate       = 1 << 30
)

func convertDefaults(w wireDefaults, service string) (ServiceDefaults, error) {
	if w.Kind != "service-defaults" || !strings.EqualFold(w.Name, service) {
		return ServiceDefaults{}, fmt.Errorf("the answer is the entry %q of kind %q", w.Name, w.Kind)
	}
	var d ServiceDefaults
	var maxBody int64
	limits, where := w.RateLimits, "rate_limits"
	for _, key := range slices.Sorted(maps.Keys(w.Meta)) {
		text := w.Meta[key]
		switch {
		case key == rateLimitsKey && limits != nil:
			d.Warnings = append(d.Warnings, fmt.Sprintf("key %s of Meta is ignored: the entry has rate_limits", key))
		case key == rateLimitsKey:
			where = "key " + key + " of Meta"
			if err := decodeSpelled(text, &limits); err != nil {
				return ServiceDefaults{}, fmt.Errorf("%s: %w", where, err)
			}
		case key == faultsKey:
			faults, err := convertFaults(text)
			if err != nil {
				return ServiceDefaults{}, fmt.Errorf("key %s of Meta: %w", key, err)
			}
			d.Faults = faults
		case key == maxBodyKey:
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 1 {
				return ServiceDefaults{}, fmt.Errorf("key %s of Meta: %.20q is not a number of bytes above 0", key, text)
			}
			maxBody = n
		case strings.HasPrefix(key, ourKeys):
			d.Warnings = append(d.Warnings, fmt.Sprintf("key %.80s of Meta is not known: there are %s, %s and %s", key, faultsKey, maxBodyKey, rateLimitsKey))
		}
	}
	var err error
	if d.RateLimits, err = limits.convert(); err != nil {
		return ServiceDefaults{}, fmt.Errorf("%s: %w", where, err)
	}
	d.RateLimits.MaxBody = maxBody
	return d, nil
}

func (w *wireRateLimits) convert() (connect.RateLimits, error) {
	if w == nil || w.InstanceLevel == nil {
		return connect.RateLimits{}, nil
	}
	top := w.InstanceLevel
	if err := checkRate(top.RequestsPerSecond, top.RequestsMaxBurst); err != nil {
		return connect.RateLimits{}, err
	}
	if err := sizes("routes", len(top.Routes), maxRules); err != nil {
		return connect.RateLimits{}, err
	}
	limits := connect.RateLimits{Rate: int(top.RequestsPerSecond), Burst: int(top.RequestsMaxBurst)}
	for i, r := range top.Routes {
		path, err := convertPath(r.PathExact, r.PathPrefix, r.PathRegex, false)
		if err == nil && path.Kind == "" {
			err = errors.New("it has no path")
		}
		if err == nil {
			err = checkRate(r.RequestsPerSecond, r.RequestsMaxBurst)
		}
		if err != nil {
			return connect.RateLimits{}, fmt.Errorf("route %d: %w", i+1, err)
		}
		limits.Routes = append(limits.Routes, connect.RouteLimit{Path: path, Rate: int(r.RequestsPerSecond), Burst: int(r.RequestsMaxBurst)})
	}
	return limits, nil
}

// checkRate knows Consul's rules: a burst needs a rate and is not below it.
func checkRate(rate, burst int64) error {
	switch {
	case rate < 0 || rate > maxRate:
		return fmt.Errorf("requests_per_second is %d, want 0 to %d", rate, maxRate)
	case burst != 0 && (burst < rate || rate == 0 || burst > maxRate):
		return fmt.Errorf("requests_max_burst is %d, want requests_per_second, %d, or more, and that above 0", burst, rate)
	}
	return nil
}

func convertFaults(text string) ([]connect.Fault, error) {
	var list []wireFault
	if err := decodeSpelled(text, &list); err != nil {
		return nil, err
	}
	if err := sizes("faults", len(list), maxFaults); err != nil {
		return nil, err
	}
	var faults []connect.Fault
	for i, w := range list {
		f, err := w.convert()
		if err != nil {
			return nil, fmt.Errorf("fault %d: %w", i+1, err)
		}
		faults = append(faults, f)
	}
	return faults, nil
}

func (w wireFault) convert() (connect.Fault, error) {
	var f connect.Fault
	route := wireRouteMatch{PathExact: w.PathExact, PathPrefix: w.PathPrefix, PathRegex: w.PathRegex, Header: w.Header, Methods: w.Methods}
	var err error
	if f.Match, err = route.convert(); err != nil {
		return f, err
	}
	if f.Delay, err = optionalDuration(w.Delay); err != nil {
		return f, fmt.Errorf("delay: %w", err)
	}
	if f.DelayMillionths, err = millionths(w.DelayPercent); err != nil {
		return f, fmt.Errorf("delay_percent: %w", err)
	}
	if f.AbortMillionths, err = millionths(w.AbortPercent); err != nil {
		return f, fmt.Errorf("abort_percent: %w", err)
	}
	f.AbortStatus = w.AbortStatus
	switch {
	case f.Delay > maxFaultDelay:
		return f, fmt.Errorf("delay is %v, at most %v is done", f.Delay, maxFaultDelay)
	case f.AbortStatus != 0 && (f.AbortStatus < 200 || f.AbortStatus > 599):
		return f, fmt.Errorf("abort_status is %d, want 200 to 599", f.AbortStatus)
	case (f.Delay == 0) != (w.DelayPercent == 0):
		return f, errors.New("delay and delay_percent go together, one is missing")
	case (f.AbortStatus == 0) != (w.AbortPercent == 0):
		return f, errors.New("abort_status and abort_percent go together, one is missing")
	case f.Delay == 0 && f.AbortStatus == 0:
		return f, errors.New("it neither delays nor aborts")
	}
	return f, nil
}

func millionths(percent float64) (int, error) {
	n := math.Round(percent * 10_000)
	if percent < 0 || percent > 100 || (n == 0 && percent != 0) {
		return 0, fmt.Errorf("%v is not 0 or 0.0001 to 100", percent)
	}
	return int(n), nil
}
