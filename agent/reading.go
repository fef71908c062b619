// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"time"

	"github.com/outrider-mesh/outrider/agent/limits"
)

// A process that has too little memory for its program reads it from disk again and
// again and gets little else done. A start and a peak read much once; from so many
// pages on in two looks one after the other, it is said.
const (
	readingEvery = 10 * time.Second
	readingMuch  = 2000
)

// reading tells from the pages read so far whether they have become too many.
type reading struct {
	pages int64
	looks int // that found many, without a break
}

// look reports whether it begins or ends with this look that there are too many.
func (r *reading) look(pages int64) (more int64, begins, ends bool) {
	more, r.pages = pages-r.pages, pages
	if more < readingMuch {
		ends, r.looks = r.looks > 1, 0
		return more, false, ends
	}
	r.looks++
	return more, r.looks == 2, false
}

// watchReading looks whether the process reads its program instead of serving.
// Nothing else shows it: such pages are cache, which the kernel takes back before
// memory is full.
func (a *Agent) watchReading(ctx context.Context) error {
	root := a.opts.Room.root
	if root == nil {
		return nil
	}
	pages, err := limits.PagesRead(root)
	if err != nil {
		a.log.Debug("it will not be said when memory is too little for the program", "error", err)
		return nil
	}
	tick := time.NewTicker(readingEvery)
	defer tick.Stop()
	for r := (reading{pages: pages}); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if pages, err = limits.PagesRead(root); err == nil {
			a.sayReading(r.look(pages))
		}
	}
}

func (a *Agent) sayReading(pages int64, begins, ends bool) {
	memory := a.opts.Room.memory
	switch {
	case begins:
		a.log.Warn("the program is read from disk again and again, which slows everything down: there is too little memory for it; raise the limit (MemoryMax of the unit, memory of the task), or free memory of the host where that is short",
			"pages", pages, "within", readingEvery, "limit", inMB(memory.Bytes), "from", memory.From)
	case ends:
		a.log.Info("the program stays in memory again", "pages", pages, "within", readingEvery)
	}
}
