// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"encoding/binary"
	"fmt"
)

// A sampler decides which requests are recorded, as the samplers of the
// OpenTelemetry specification of the same names do.
type sampler struct {
	// parentBased follows whoever has decided before.
	parentBased bool
	ratio       float64 // of the others: 0 never, 1 always
}

// sample decides on a request of a trace.
func (s sampler) sample(o origin, id traceID) bool {
	if s.parentBased && o.decision != undecided {
		return o.decision == sampled
	}
	switch {
	case s.ratio >= 1:
		return true
	case s.ratio <= 0:
		return false
	}
	// The same part of the ID as in other implementations: services with the same
	// ratio record the same traces.
	return float64(binary.BigEndian.Uint64(id[8:])>>1) < s.ratio*(1<<63)
}

func (s sampler) String() string {
	name := "traceidratio"
	switch s.ratio {
	case 0:
		name = "always_off"
	case 1:
		name = "always_on"
	default:
		name = fmt.Sprintf("%s %g", name, s.ratio)
	}
	if s.parentBased {
		return "parentbased_" + name
	}
	return name
}
