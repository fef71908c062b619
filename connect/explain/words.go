// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Match says in words which requests are meant. Of headers and parameters it
// names the kind of comparison, not the value, which may be a secret.
func Match(m connect.RequestMatch) string {
	var parts []string
	if len(m.Methods) > 0 {
		parts = append(parts, strings.Join(m.Methods, " or "))
	}
	if m.Path.Kind != "" {
		parts = append(parts, fmt.Sprintf("path %s %q%s", m.Path.Kind, m.Path.Value, ignoring(m.Path.IgnoreCase)))
	}
	for _, h := range m.Headers {
		verb := string(h.Kind)
		if h.Invert {
			verb = "not " + verb
		}
		parts = append(parts, fmt.Sprintf("header %q %s%s", h.Name, verb, ignoring(h.IgnoreCase)))
	}
	for _, q := range m.Query {
		parts = append(parts, fmt.Sprintf("query parameter %q %s", q.Name, q.Kind))
	}
	if len(parts) == 0 {
		return "every request"
	}
	return strings.Join(parts, ", ")
}

func ignoring(yes bool) string {
	if yes {
		return " in any case"
	}
	return ""
}

// Tokens says in words which tokens would do, one for each provider; nil when
// none is asked for.
func Tokens(r *connect.JWTRequirement) []string {
	if r == nil {
		return nil
	}
	if len(r.Providers) == 0 {
		return []string{"no provider is named: nobody can meet it"}
	}
	var out []string
	for _, p := range r.Providers {
		words := fmt.Sprintf("of provider %q", p.Provider)
		var claims []string
		for _, c := range p.Claims {
			claims = append(claims, fmt.Sprintf("%s = %q", strings.Join(c.Path, "."), c.Value))
		}
		if len(claims) > 0 {
			words += " with " + strings.Join(claims, " and ")
		}
		out = append(out, words)
	}
	return out
}

// Percent writes a share.
func Percent(share int) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(float64(share)/100, 'f', 2, 64), "0"), ".") + " %"
}

// Duration writes a limit in time, of which 0 is none.
func Duration(d time.Duration) string {
	if d <= 0 {
		return "none"
	}
	return d.String()
}
