// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import "github.com/outrider-mesh/outrider/connect"

// A Way is one choice that a table may make for a request, and how many of all
// draws fall on it.
type Way struct {
	Share  int // of Draws; above 0
	Choice Choice
}

// Ways returns what [Table.Route] may choose for a request, by draw, for
// explanations; nil when no rule matches. It does not change h.
func (t *Table) Ways(h *connect.Head) []Way {
	var ways []Way
	for draw := uint32(0); draw < Draws; {
		c, ok := t.Route(h, draw)
		if !ok {
			return nil
		}
		end := c.leg.end
		ways = append(ways, Way{Share: int(end - draw), Choice: c})
		draw = end
	}
	return ways
}
