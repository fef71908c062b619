// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package jwks keeps the key sets of JWT providers fresh: those behind a URI,
// those in a file, and those that came with the provider's config entry. It
// verifies no token and decides about no request.
package jwks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// A Source says where the key set of one JWT provider comes from: Remote, or
// KeysFile, or else Provider.Keys as the config entry has them (Consul,
// jwt-provider config entry: JSONWebKeySet).
type Source struct {
	// Provider is everything but its keys, unless they are part of the entry.
	Provider connect.JWTProvider
	Remote   *RemoteKeys
	KeysFile string // on this host
}

// RemoteKeys says how a key set is fetched. Zero durations take the defaults
// named at each, which are Consul's where it documents one.
//
// Fetching never waits for a request, so that Consul's FetchAsynchronously has
// nothing to choose here. A token that names a key we do not have is refused
// until the next refresh: what reads tokens has no way to ask for one, and a
// stranger must not be able to make us fetch.
type RemoteKeys struct {
	URI        string        // http or https
	Timeout    time.Duration // of one try, answer included: 1 s, at most 30 s
	CacheFor   time.Duration // fetched again before it is over: 5 min; 5 s … 12 h
	Retries    int           // tries after a failed one at the pace of Backoff; later ones come about once a minute
	Backoff    time.Duration // 1 s
	MaxBackoff time.Duration // 10 × Backoff

	ConnectTimeout time.Duration // part of Timeout: 5 s
	// What an https server's certificate must chain to, in place of the system's
	// roots: a PEM file, an environment variable with PEM in it, or PEM.
	CAFile, CAEnvironment, CA string
}

// staleAfter is how long a key set is used that could not be confirmed: long
// enough to live through a night of an issuer that is down, because every
// token is denied without keys, and no longer, because a key that the issuer has
// withdrawn would otherwise be good for as long as somebody keeps us from
// learning it.
const staleAfter = 24 * time.Hour

const (
	// maxOrigins bounds the key sets that are kept, and with them goroutines.
	maxOrigins = 256
	// maxKeys bounds one key set, in bytes.
	maxKeys = 1 << 20
)

// Options of a Keeper. Zero fields take their defaults.
type Options struct {
	Logger hclog.Logger // nil discards
	// Fetch gets the body behind a URI: [HTTP].
	Fetch func(context.Context, RemoteKeys) ([]byte, error)
	// Random returns numbers in [0, 1) for jitter: math/rand/v2. It must be safe
	// for concurrent use.
	Random func() float64
}

// A Keeper keeps key sets for everybody in the process: what several sidecars
// want is fetched once. Its methods may be called from any goroutine.
type Keeper struct {
	opts Options
	wake chan struct{} // of capacity 1: Run must look at origins again

	mu      sync.Mutex // held while deliver functions run, so that values come in order
	running bool
	heard   bool // Set has been called
	sources map[string]Source
	owners  map[string]*owner
	origins map[origin]*entry
}

// An owner is somebody who wants providers.
type owner struct {
	names   []string
	deliver func(map[string]connect.JWTProvider)
	last    map[string]connect.JWTProvider // nil before the first delivery
}

// An origin is what decides the content of a key set.
type origin struct{ uri, caFile, caEnvironment, ca, file string }

func (s Source) origin() origin {
	switch {
	case s.Remote != nil:
		return origin{uri: s.Remote.URI, caFile: s.Remote.CAFile, caEnvironment: s.Remote.CAEnvironment, ca: s.Remote.CA}
	case s.KeysFile != "":
		return origin{file: s.KeysFile}
	}
	return origin{}
}

// An entry is what is known of one origin.
type entry struct {
	remote    RemoteKeys // the pace; of several providers with one URI, that of the first by name
	keys      string
	confirmed time.Time // when the keys were last seen at their origin; zero: never
	failures  int       // since then
	err       error     // of the last try; nil when it went well, or there was none
}

// New returns a keeper that keeps nothing yet.
func New(opts Options) *Keeper {
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if opts.Fetch == nil {
		opts.Fetch = HTTP
	}
	if opts.Random == nil {
		opts.Random = watch.Options{}.WithDefaults().Random
	}
	return &Keeper{
		opts: opts, wake: make(chan struct{}, 1),
		owners: make(map[string]*owner), origins: make(map[origin]*entry),
	}
}

// Set makes sources, by the name of the provider, all that there are. The map
// is not modified and must not be afterwards. While nobody wants a provider, it
// does nothing: what was set long before somebody does may not hold any more.
func (k *Keeper) Set(sources map[string]Source) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.owners) == 0 {
		return
	}
	k.heard, k.sources = true, sources
	k.adjust()
}

// Want makes the named providers all that somebody, known by name, wants; no
// providers means nothing more. Key sets that nobody wants are not fetched, and
// are forgotten.
//
// deliver gets the wanted providers by name whenever they differ from what it
// was given before, also before Want returns. A provider is missing while
// nothing can be said of it: before Set, and before the first try to read its
// keys has ended. One that Consul does not have, and one without usable keys,
// is there without keys and with a Problem. deliver is called by one goroutine
// at a time, must not call the keeper, and is not called after Want has
// replaced it.
func (k *Keeper) Want(name string, providers []string, deliver func(map[string]connect.JWTProvider)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(providers) == 0 {
		delete(k.owners, name)
	} else {
		o := &owner{names: slices.Clone(providers), deliver: deliver}
		k.owners[name] = o
	}
	if len(k.owners) == 0 {
		// What nobody hears about grows old; the next owner starts afresh.
		k.heard, k.sources = false, nil
	}
	k.adjust()
}

// adjust brings origins in line with what is wanted, with the lock held.
func (k *Keeper) adjust() {
	wanted := make(map[origin]RemoteKeys)
	for _, name := range slices.Backward(k.wantedNames()) {
		source, known := k.sources[name]
		if at := source.origin(); known && at != (origin{}) {
			wanted[at] = RemoteKeys{}
			if source.Remote != nil {
				wanted[at] = *source.Remote
			}
		}
	}
	maps.DeleteFunc(k.origins, func(at origin, _ *entry) bool {
		_, is := wanted[at]
		return !is
	})
	for at, remote := range wanted {
		if e := k.origins[at]; e != nil {
			e.remote = remote
		} else if len(k.origins) < maxOrigins {
			k.origins[at] = &entry{remote: remote}
		}
	}
	k.deliver()
	select {
	case k.wake <- struct{}{}:
	default: // Run will look anyway.
	}
}

func (k *Keeper) wantedNames() []string {
	names := make(map[string]bool)
	for _, o := range k.owners {
		for _, name := range o.names {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// deliver tells every owner what is new to it, with the lock held.
func (k *Keeper) deliver() {
	if !k.heard {
		return
	}
	now := time.Now()
	for _, o := range k.owners {
		next := make(map[string]connect.JWTProvider, len(o.names))
		for _, name := range o.names {
			if p, settled := k.provider(name, now); settled {
				next[name] = p
			}
		}
		if o.last == nil || !maps.EqualFunc(o.last, next, equal) {
			o.last = next
			o.deliver(maps.Clone(next))
		}
	}
}

var errTooMany = errors.New("too many key sets are wanted at once")

// provider is what can be said of one provider now; false while that is
// nothing.
func (k *Keeper) provider(name string, now time.Time) (connect.JWTProvider, bool) {
	source, known := k.sources[name]
	p := source.Provider
	p.Name = name
	if !known {
		p.Problem = fmt.Sprintf("Consul has no jwt-provider config entry %q", name)
		return p, true
	}
	at := source.origin()
	if at == (origin{}) {
		keys, err := publicKeys([]byte(p.Keys))
		if p.Keys = keys; err != nil && p.Problem == "" {
			p.Problem = fmt.Sprintf("the key set in jwt-provider %q: %v", name, err)
		}
		return p, true
	}
	e := k.origins[at]
	if e == nil {
		e = &entry{err: errTooMany}
	}
	p.Keys, p.Problem = "", ""
	switch {
	case e.confirmed.IsZero() && e.err == nil:
		return p, false
	case e.confirmed.IsZero():
		p.Problem = e.err.Error()
	case now.Sub(e.confirmed) >= staleAfter:
		p.Problem = fmt.Sprintf("the keys could not be confirmed for %s and are not used any more: %v", staleAfter, e.err)
	default:
		p.Keys = e.keys
	}
	return p, true
}

func equal(a, b connect.JWTProvider) bool {
	return a.Name == b.Name && a.Issuer == b.Issuer && slices.Equal(a.Audiences, b.Audiences) &&
		slices.Equal(a.Locations, b.Locations) && a.Forward == b.Forward && a.ClockSkew == b.ClockSkew &&
		a.Keys == b.Keys && a.Problem == b.Problem
}

// A Status says how one key set fares.
type Status struct {
	Origin      string    // the URI without user and query, or the file
	LastSuccess time.Time // zero: none yet
	Failures    int       // since then
	Err         error     // of the last try; nil when fine
}

// Status returns the state of every key set that is fetched or read from a
// file, sorted by Origin.
func (k *Keeper) Status() []Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make([]Status, 0, len(k.origins))
	for at, e := range k.origins {
		all = append(all, Status{Origin: at.String(), LastSuccess: e.confirmed, Failures: e.failures, Err: e.err})
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Origin, b.Origin) })
	return all
}
