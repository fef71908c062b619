// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import "time"

// Renew makes the pool dial differently from now on. With fresh, connections
// that are there take no more requests and end with those they have, so that
// peers see a renewed leaf soon and no stream is cut for it.
func (p *Pool) Renew(dial Dial, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dial = dial
	if fresh {
		p.age()
	}
}

// Retire ends the pool: idle connections at once, others after the requests
// they have. A request that chose the pool before and comes to it now is served
// on a connection of its own.
func (p *Pool) Retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	p.age()
}

func (p *Pool) age() {
	for c := range p.every {
		c.old = true
		if c.inUse == 0 {
			p.remove(c)
		}
	}
}

// Close cuts every connection. Further requests fail.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.every {
		p.remove(c)
	}
	for len(p.waiting) > 0 {
		p.wakeOne()
	}
}

// Sweep ends connections that have died or have been idle since before.
func (p *Pool) Sweep(before time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.every {
		if c.Err() != nil || (c.inUse == 0 && c.parked.Before(before)) {
			p.remove(c)
		}
	}
}

// Open is the number of connections, busy or idle.
func (p *Pool) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}
