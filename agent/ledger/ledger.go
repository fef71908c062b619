// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package ledger remembers who has called whom on this host: each pair of
// services with the methods and the forms of paths, how often and when last. It
// must not hold a path as it came, a query, a header or an address, nor decide
// anything.
package ledger

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// Bounds of what a ledger holds. Peers choose paths and methods, so that both
// are bounded for each pair; certificates prove the names.
const (
	maxEdges     = 4096
	maxPaths     = 64      // pairs of method and path of one pair of services and one verdict
	maxBytes     = 1 << 20 // of the texts of all edges
	guestShare   = 2       // edges of who is denied or of a peer get one part in that many
	maxNames     = 300     // bytes of the names of one edge
	maxMethod    = 24      // bytes of a method
	shardCount   = 16
	keepSeen     = 90 * 24 * time.Hour // after which an edge that is not seen is forgotten
	saveEvery    = time.Minute
	anyPath      = "/**"
	anyMethod    = "*"
	inboundWord  = "inbound"
	outboundWord = "outbound"
)

// An Edge is one kind of call that was seen.
type Edge struct {
	Direction string // inbound: we judged it; outbound: the application here called
	// Source is who called: a service, of a peer where Peer is set. Namespace and
	// Partition are "" for the default ones.
	Source    string
	Peer      string `json:",omitempty"`
	Namespace string `json:",omitempty"`
	Partition string `json:",omitempty"`
	// Destination is the service that was called; outbound the one that routing
	// has chosen.
	Destination string
	// Method and Path are "" for a connection that is no HTTP. Method is "*" for
	// any. Path is a form: "{id}" stands for one segment and "/**" at the end for
	// any rest.
	Method string `json:",omitempty"`
	Path   string `json:",omitempty"`
	// Sample is a made-up path of the form, its letters and digits replaced; "" for
	// a form without {id}.
	Sample  string `json:",omitempty"`
	Allowed bool   // by the intentions of the destination
	Count   uint64
	First   time.Time
	Last    time.Time
}

// Edges is what a ledger holds: the answer of GET /v1/edges, and the file in
// which it is kept.
type Edges struct {
	Version int // 1
	// Forgotten counts calls that no edge could be made for, because there are too
	// many. What follows from the edges is not everything then.
	Forgotten uint64
	Edges     []Edge // sorted
}

// Options are what a ledger is made of.
type Options struct {
	// Path is the file in which edges outlive the process, in a directory that
	// only this user may write to; "" for none.
	Path   string
	Logger hclog.Logger // nil for none
	// Every is how often the file is written when there is news; 0 means a minute.
	Every time.Duration
}

// A Ledger is a [flow.Sink]. For an edge that it knows, Done takes no lock and
// allocates nothing.
type Ledger struct {
	opts Options
	log  hclog.Logger

	shards    [shardCount]shard
	forgotten atomic.Uint64
	changed   atomic.Bool    // since the file was written
	full      [2]atomic.Bool // for anybody, and for guests

	adding sync.Mutex // guards what follows, and additions to shards
	edges  [2]int     // of anybody, and of guests among them
	bytes  [2]int
	paths  map[string]int // distinct ones, by pair of services and verdict

	saving sync.Mutex // one writer of the file, and what follows
	loaded bool       // the file was read: before, it must not be written
	ceded  bool       // the file is a successor's
}

// A shard is replaced as a whole for each addition, so that readers need no
// lock.
type shard struct {
	edges atomic.Pointer[map[string]*edge]
}

// edge is one edge with its counters.
type edge struct {
	is    Edge // without count and times
	count atomic.Uint64
	first atomic.Int64 // Unix time in seconds
	last  atomic.Int64
}

// New returns a ledger that remembers nothing yet. [Ledger.Run] reads its file.
func New(opts Options) *Ledger {
	l := &Ledger{opts: opts, log: opts.Logger, paths: map[string]int{}}
	if l.log == nil {
		l.log = hclog.NewNullLogger()
	}
	if l.opts.Every == 0 {
		l.opts.Every = saveEvery
	}
	for i := range l.shards {
		l.shards[i].edges.Store(&map[string]*edge{})
	}
	return l
}

// Done notes a call. It leaves out what no intention has judged: what failed
// before, exposed paths, and what left the mesh.
func (l *Ledger) Done(r *flow.Record) {
	call, ok := of(r)
	if !ok {
		return
	}
	var room [512]byte
	key := call.key(room[:0])
	e := l.find(key)
	if e == nil {
		if e = l.meet(&call, key); e == nil {
			l.forgotten.Add(1)
			return
		}
	}
	e.count.Add(1)
	e.seen(r.Start.Unix())
	if !l.changed.Load() {
		l.changed.Store(true)
	}
}

// seen moves the times. They are whole seconds, so that a busy edge is written
// to once in a second only.
func (e *edge) seen(at int64) {
	for last := e.last.Load(); at > last; last = e.last.Load() {
		if e.last.CompareAndSwap(last, at) {
			break
		}
	}
	for first := e.first.Load(); first == 0 || at < first; first = e.first.Load() {
		if e.first.CompareAndSwap(first, at) {
			break
		}
	}
}

func (l *Ledger) find(key []byte) *edge {
	return (*l.shards[shardOf(key)].edges.Load())[string(key)]
}

// meet returns the edge of a call that has none of its own yet: that of all
// further paths where there is one, or a new one. It takes a lock for a new one
// only.
func (l *Ledger) meet(c *call, key []byte) *edge {
	if c.method != "" {
		wide := *c
		wide.widen()
		var room [512]byte
		if e := l.find(wide.key(room[:0])); e != nil {
			return e
		}
	}
	if l.full[0].Load() || (c.guest() && l.full[1].Load()) {
		return nil
	}
	return l.add(c, key)
}

// add makes the edge of a call, or of all further paths of its services when
// there are too many; nil when there is no room.
func (l *Ledger) add(c *call, key []byte) *edge {
	l.adding.Lock()
	defer l.adding.Unlock()
	if e := l.find(key); e != nil {
		return e
	}
	pair := string(c.pair(nil))
	if c.method != "" && l.paths[pair] >= maxPaths {
		c.widen()
		wide := c.key(nil)
		if e := l.find(wide); e != nil {
			return e
		}
		return l.put(string(wide), c.edge())
	}
	e := l.put(string(key), c.edge())
	if e != nil && c.method != "" {
		l.paths[pair]++
	}
	return e
}

// put stores an edge unless there is no room, or its texts could not be shown. It is called with adding held.
func (l *Ledger) put(key string, is Edge) *edge {
	if is.check() != nil {
		return nil
	}
	size := 2*len(key) + len(is.Sample)
	guest := !is.Allowed || is.Peer != ""
	for i, share := range [...]int{1, guestShare} {
		if (i == 0 || guest) && (l.edges[i] >= maxEdges/share || l.bytes[i]+size > maxBytes/share) {
			l.full[i].Store(true)
			return nil
		}
	}
	s := &l.shards[shardOf([]byte(key))]
	next := maps.Clone(*s.edges.Load())
	e := &edge{is: is}
	next[key] = e
	s.edges.Store(&next)
	for i := range l.edges {
		if i == 0 || guest {
			l.edges[i]++
			l.bytes[i] += size
		}
	}
	return e
}

// Edges returns what is known by now. The caller owns it.
func (l *Ledger) Edges() Edges {
	out := Edges{Version: fileVersion, Forgotten: l.forgotten.Load(), Edges: []Edge{}}
	for i := range l.shards {
		for _, e := range *l.shards[i].edges.Load() {
			one := e.is
			one.Count = e.count.Load()
			if one.Count == 0 {
				continue // its first call is about to be counted
			}
			one.First, one.Last = time.Unix(e.first.Load(), 0).UTC(), time.Unix(e.last.Load(), 0).UTC()
			out.Edges = append(out.Edges, one)
		}
	}
	slices.SortFunc(out.Edges, compare)
	return out
}

func compare(a, b Edge) int {
	for _, order := range []int{
		strings.Compare(a.Direction, b.Direction), strings.Compare(a.Destination, b.Destination),
		strings.Compare(a.Peer, b.Peer), strings.Compare(a.Partition, b.Partition), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Source, b.Source), strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method),
	} {
		if order != 0 {
			return order
		}
	}
	switch {
	case a.Allowed == b.Allowed:
		return 0
	case a.Allowed:
		return -1
	}
	return 1
}

// Label names the source as a person would: "web", or "east/web" for one of peer
// east.
func (e Edge) Label() string { return connect.Identity{Service: e.Source, Peer: e.Peer}.Label() }

// String is the edge in the words of a policy table: "web → api GET /a".
func (e Edge) String() string {
	text := e.Label() + " → " + e.Destination
	if e.Method != "" {
		text += " " + e.Method + " " + e.Path
	}
	return text
}

// Example is a made-up path of the form.
func (e Edge) Example() string {
	if e.Sample != "" {
		return e.Sample
	}
	if stem, open := strings.CutSuffix(e.Path, anyPath); open {
		return stem + "/x"
	}
	return e.Path
}

// Inbound reports whether it is a call of a service on this host.
func (e Edge) Inbound() bool { return e.Direction == inboundWord }
