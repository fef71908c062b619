// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

type wireRoute struct {
	Definition *struct {
		Match       json.RawMessage // a wireMatch, read strictly
		Destination *wireDestination
	}
	NextNode string
}

type wireMatch struct{ HTTP *wireRouteMatch }

type wireDestination struct {
	PrefixRewrite                   string
	RequestTimeout, IdleTimeout     any
	NumRetries                      int64
	RetryOnConnectFailure           bool
	RetryOn                         []string
	RetryOnStatusCodes              []int
	RequestHeaders, ResponseHeaders *wireHeaderEdits
}

type wireSplit struct {
	Definition *struct{ RequestHeaders, ResponseHeaders *wireHeaderEdits }
	Weight     float64 // percent, left out when 0
	NextNode   string
}

// maxRetries bounds num_retries: one request must not become a thousand.
const maxRetries = 1000

// retryWords are the conditions of service-router's retry_on (Consul,
// service-router: retry_on).
var retryWords = []string{
	"5xx", "gateway-error", "reset", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

func convertRoutes(list []wireRoute) ([]connect.ChainRoute, error) {
	if len(list) == 0 {
		return nil, errors.New("the router has no routes")
	}
	if err := sizes("routes", len(list), maxRules); err != nil {
		return nil, err
	}
	routes := make([]connect.ChainRoute, len(list))
	for i, w := range list {
		r, err := w.convert()
		if err != nil {
			return nil, fmt.Errorf("route %d: %w", i+1, err)
		}
		routes[i] = r
	}
	return routes, nil
}

func (w wireRoute) convert() (connect.ChainRoute, error) {
	r := connect.ChainRoute{Next: w.NextNode}
	if w.Definition == nil {
		return r, errors.New("it has no definition")
	}
	var match *wireMatch
	if err := decodeStrictly(w.Definition.Match, &match); err != nil {
		return r, fmt.Errorf("match: %w", err)
	}
	var err error
	if match != nil && match.HTTP != nil {
		if r.Match, err = match.HTTP.convert(); err != nil {
			return r, fmt.Errorf("match: %w", err)
		}
	}
	if w.Definition.Destination == nil {
		return r, nil
	}
	if err := w.Definition.Destination.into(&r); err != nil {
		return r, fmt.Errorf("destination: %w", err)
	}
	return r, nil
}

// into reads what a destination asks for. Where the request goes is known from
// the next node already.
func (w *wireDestination) into(r *connect.ChainRoute) error {
	var err error
	if r.PrefixRewrite = w.PrefixRewrite; r.PrefixRewrite != "" {
		if err := checkRewrite(r.PrefixRewrite, r.Match.Path.Kind); err != nil {
			return err
		}
	}
	if r.RequestTimeout, err = signedDuration(w.RequestTimeout); err != nil {
		return fmt.Errorf("RequestTimeout: %w", err)
	}
	if r.IdleTimeout, err = signedDuration(w.IdleTimeout); err != nil {
		return fmt.Errorf("IdleTimeout: %w", err)
	}
	if r.Retry, err = w.retry(); err != nil {
		return err
	}
	if r.RequestHeaders, err = convertEdits(w.RequestHeaders); err != nil {
		return fmt.Errorf("RequestHeaders: %w", err)
	}
	if r.ResponseHeaders, err = convertEdits(w.ResponseHeaders); err != nil {
		return fmt.Errorf("ResponseHeaders: %w", err)
	}
	return nil
}

func checkRewrite(rewrite string, kind connect.MatchKind) error {
	switch {
	case kind != connect.MatchExact && kind != connect.MatchPrefix:
		return errors.New("PrefixRewrite needs a path matched by prefix or whole")
	case len(rewrite) > maxText:
		return fmt.Errorf("PrefixRewrite: %d bytes, at most %d are read", len(rewrite), maxText)
	case !strings.HasPrefix(rewrite, "/") || strings.ContainsAny(rewrite, "?#") ||
		strings.ContainsFunc(rewrite, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return fmt.Errorf("PrefixRewrite %q cannot begin a path", rewrite)
	}
	return nil
}

func (w *wireDestination) retry() (connect.Retry, error) {
	if w.NumRetries < 0 || w.NumRetries > maxRetries {
		return connect.Retry{}, fmt.Errorf("NumRetries is %d, want 0 to %d", w.NumRetries, maxRetries)
	}
	if err := sizes("conditions to retry on", len(w.RetryOn)+len(w.RetryOnStatusCodes), maxMatchers); err != nil {
		return connect.Retry{}, err
	}
	for _, word := range w.RetryOn {
		if !slices.Contains(retryWords, word) {
			return connect.Retry{}, fmt.Errorf("RetryOn: %.40q is not known", word)
		}
	}
	for _, code := range w.RetryOnStatusCodes {
		if code < 100 || code > 599 {
			return connect.Retry{}, fmt.Errorf("RetryOnStatusCodes: %d is not a status code", code)
		}
	}
	return connect.Retry{
		Attempts: int(w.NumRetries), On: w.RetryOn, ConnectFailure: w.RetryOnConnectFailure, StatusCodes: w.RetryOnStatusCodes,
	}, nil
}

// convertSplits reads weights in hundredths of a percent, of which Consul's have
// no fractions. Splitters that Consul has merged may miss 100 % by what was
// rounded.
func convertSplits(list []wireSplit) ([]connect.Split, error) {
	if len(list) == 0 {
		return nil, errors.New("the splitter has no splits")
	}
	if err := sizes("splits", len(list), maxRules); err != nil {
		return nil, err
	}
	const whole, slack = 10000, 100
	splits := make([]connect.Split, len(list))
	sum := 0
	for i, w := range list {
		s := connect.Split{Next: w.NextNode, Weight: int(math.Round(min(max(w.Weight, -1), 101) * 100))}
		if s.Weight < 0 || s.Weight > whole {
			return nil, fmt.Errorf("split %d: its weight is %v, want 0 to 100", i+1, w.Weight)
		}
		sum += s.Weight
		if d := w.Definition; d != nil {
			var err error
			if s.RequestHeaders, err = convertEdits(d.RequestHeaders); err != nil {
				return nil, fmt.Errorf("split %d: RequestHeaders: %w", i+1, err)
			}
			if s.ResponseHeaders, err = convertEdits(d.ResponseHeaders); err != nil {
				return nil, fmt.Errorf("split %d: ResponseHeaders: %w", i+1, err)
			}
		}
		splits[i] = s
	}
	if allowed := max(slack, len(list)); sum < whole-allowed || sum > whole+allowed {
		return nil, fmt.Errorf("the weights make %d.%02d, want 100", sum/100, sum%100)
	}
	return splits, nil
}

// signedDuration reads a duration of which a negative one, returned as -1,
// switches something off.
func signedDuration(v any) (time.Duration, error) {
	if s, ok := v.(string); ok {
		if d, err := time.ParseDuration(s); err == nil && d < 0 {
			return -1, nil
		}
	}
	if f, ok := number(v); ok && f < 0 {
		return -1, nil
	}
	return optionalDuration(v)
}
