// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/request"
)

// clock compiles a time with a format of strftime, in UTC. %f is a fraction of
// nine digits, %1f … %9f of that many.
func (p *parser) clock(c request.Command, of func(r *flow.Record) time.Time) ask {
	if c.Limit > 0 && c.Args == "" {
		return nil
	}
	pieces := []func([]byte, time.Time) []byte{defaultTime}
	if c.Args != "" {
		pieces = p.pieces(c.Args)
	}
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		t := of(r).UTC()
		if r.Start.IsZero() {
			return dst, false
		}
		for _, piece := range pieces {
			dst = piece(dst, t)
		}
		return dst, true
	}
}

// defaultTime is how Envoy writes a time without a format, with milliseconds.
// RFC 3339 is what the library writes fast, and lacks only them.
func defaultTime(dst []byte, t time.Time) []byte {
	dst = t.AppendFormat(dst, time.RFC3339)
	return append(fraction(3)(append(dst[:len(dst)-1], '.'), t), 'Z')
}

func layout(l string) func([]byte, time.Time) []byte {
	return func(dst []byte, t time.Time) []byte { return t.AppendFormat(dst, l) }
}

// pieces compiles a format of strftime. What is not known stays as it is.
func (p *parser) pieces(format string) []func([]byte, time.Time) []byte {
	var out []func([]byte, time.Time) []byte
	literal := func(s string) {
		if s != "" {
			out = append(out, func(dst []byte, _ time.Time) []byte { return append(dst, s...) })
		}
	}
	for {
		before, rest, found := strings.Cut(format, "%")
		literal(before)
		if !found {
			return out
		}
		verb := rest[:min(1, len(rest))]
		if len(rest) > 1 && '1' <= rest[0] && rest[0] <= '9' && rest[1] == 'f' {
			verb = rest[:2]
		}
		format = rest[len(verb):]
		if piece := timePiece(verb); piece != nil {
			out = append(out, piece)
			continue
		}
		p.warn(fmt.Sprintf("%%%s is not known in the format of a time, and stays as it is", verb))
		literal("%" + verb)
	}
}

func timePiece(verb string) func([]byte, time.Time) []byte {
	layouts := map[string]string{
		"Y": "2006", "y": "06", "m": "01", "d": "02", "e": "_2", "b": "Jan", "h": "Jan", "B": "January", "a": "Mon", "A": "Monday", "j": "002",
		"H": "15", "I": "03", "M": "04", "S": "05", "p": "PM", "z": "-0700", "Z": "MST",
		"F": "2006-01-02", "D": "01/02/06", "T": "15:04:05", "R": "15:04", "c": "Mon Jan _2 15:04:05 2006",
	}
	if l, ok := layouts[verb]; ok {
		return layout(l)
	}
	switch {
	case verb == "s":
		return func(dst []byte, t time.Time) []byte { return strconv.AppendInt(dst, t.Unix(), 10) }
	case verb == "%":
		return func(dst []byte, _ time.Time) []byte { return append(dst, '%') }
	case verb == "f":
		return fraction(9)
	case strings.HasSuffix(verb, "f"):
		return fraction(int(verb[0] - '0'))
	}
	return nil
}

// fraction appends the first digits of the fraction of a second.
func fraction(digits int) func([]byte, time.Time) []byte {
	return func(dst []byte, t time.Time) []byte {
		n := t.Nanosecond()
		unit := 100_000_000
		for range digits {
			dst = append(dst, byte('0'+n/unit%10))
			unit /= 10
		}
		return dst
	}
}
