// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// An opaque is one of Consul's free-form configuration maps. Merged ones mix
// two spellings, connect_timeout_ms and ConnectTimeoutMs, and write a duration
// as nanoseconds or as a string; all are accepted. A value that cannot be read
// counts as absent and leaves a note, as it does with Consul's own proxies.
type opaque struct {
	where  string // for notes: `upstream "api"`
	values map[string]any
	notes  *[]string
}

func (o opaque) note(format string, args ...any) {
	*o.notes = append(*o.notes, o.where+": "+fmt.Sprintf(format, args...))
}

// lookup finds a key, first as it is, then in any spelling.
func (o opaque) lookup(key string) (any, bool) {
	if v, ok := o.values[key]; ok {
		return v, v != nil
	}
	want := plain(key)
	for k, v := range o.values {
		if plain(k) == want {
			return v, v != nil
		}
	}
	return nil, false
}

func plain(key string) string {
	return strings.ToLower(strings.ReplaceAll(key, "_", ""))
}

func (o opaque) object(key string) opaque {
	v, ok := o.lookup(key)
	values, isMap := v.(map[string]any)
	if ok && !isMap {
		o.note("%s is not a block and is ignored", key)
	}
	return opaque{where: o.where + " " + key, values: values, notes: o.notes}
}

func (o opaque) text(key string) string {
	v, ok := o.lookup(key)
	if !ok {
		return ""
	}
	s, isText := v.(string)
	if !isText {
		o.note("%s is not a string and is ignored", key)
	}
	return s
}

// integer returns a number of 0 … 2^31-1; ok is false when there is none.
func (o opaque) integer(key string) (n int, ok bool) {
	v, ok := o.lookup(key)
	if !ok {
		return 0, false
	}
	f, ok := number(v)
	if !ok || f < 0 || f > math.MaxInt32 || f != math.Trunc(f) {
		o.note("%s is not a whole number from 0 to %d and is ignored", key, math.MaxInt32)
		return 0, false
	}
	return int(f), true
}

func (o opaque) milliseconds(key string) time.Duration {
	n, _ := o.integer(key)
	return time.Duration(n) * time.Millisecond
}

// timeout reads milliseconds of which none at all, returned as negative, means
// no limit; 0 when the key is not there.
func (o opaque) timeout(key string) time.Duration {
	n, ok := o.integer(key)
	if ok && n == 0 {
		return -1
	}
	return time.Duration(n) * time.Millisecond
}

// limit returns a number, or -1 when there is none.
func (o opaque) limit(key string) int {
	if n, ok := o.integer(key); ok {
		return n
	}
	return -1
}

// duration reads nanoseconds or "30s"; 0 when there is none.
func (o opaque) duration(key string) time.Duration {
	v, ok := o.lookup(key)
	if !ok {
		return 0
	}
	d, err := parseDuration(v)
	if err != nil {
		o.note("%s: %v; it is ignored", key, err)
		return 0
	}
	return d
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case string:
		f, err := strconv.ParseFloat(v, 64)
		return f, err == nil
	}
	return 0, false
}

// maxDuration bounds every duration that Consul hands us: nothing in a mesh
// waits for longer than a year.
const maxDuration = 365 * 24 * time.Hour

// parseDuration reads a duration as Consul's JSON writes it: a string such as
// "5s", or nanoseconds as a number or a string of digits. It is 0 … one year.
func parseDuration(v any) (time.Duration, error) {
	if s, ok := v.(string); ok {
		if s == "" {
			return 0, nil
		}
		if d, err := time.ParseDuration(s); err == nil {
			return bounds(d)
		}
	}
	f, ok := number(v)
	if !ok || math.IsNaN(f) {
		return 0, fmt.Errorf("%v is not a duration", v)
	}
	if f < 0 || f > float64(maxDuration) {
		return 0, fmt.Errorf("%v is not a duration from 0 to one year", v)
	}
	return time.Duration(f), nil
}

func bounds(d time.Duration) (time.Duration, error) {
	if d < 0 || d > maxDuration {
		return 0, fmt.Errorf("%v is not a duration from 0 to one year", d)
	}
	return d, nil
}
