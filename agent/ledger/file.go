// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/outrider-mesh/outrider/connect"
)

const (
	fileVersion = 1
	maxFile     = 8 << 20 // bytes; what maxEdges take is less
)

// Run reads the file, writes it whenever there is news until ctx ends, and once
// more then. A file that cannot be read is set aside with a warning, and nothing
// that is wrong with the file ends Run. It returns nil.
func (l *Ledger) Run(ctx context.Context) error {
	if l.opts.Path == "" {
		<-ctx.Done()
		return nil
	}
	l.load(time.Now())
	tick := time.NewTicker(l.opts.Every)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			if err := l.Save(); err != nil {
				l.log.Warn("the calls seen lately were not written down", "error", err)
			}
			return nil
		case <-tick.C:
		}
		switch err := l.Save(); {
		case err != nil && !failed:
			l.log.Warn("cannot write down which calls were seen; trying again", "error", err)
			failed = true
		case err == nil && failed:
			l.log.Info("the calls seen are written down again")
			failed = false
		}
	}
}

// Cede writes the file and leaves it to a successor from then on. [Ledger.Resume]
// takes that back. The error is that of writing; the file is left alone even
// then.
func (l *Ledger) Cede() error {
	err := l.Save()
	l.saving.Lock()
	defer l.saving.Unlock()
	l.ceded = true
	return err
}

// Resume has the file written again, after a successor has failed.
func (l *Ledger) Resume() {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.ceded = false
	l.changed.Store(true)
}

// Save writes the file in one step, unless nothing has changed since. It does
// nothing without a file, before the file was read, and after Cede.
func (l *Ledger) Save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	if l.opts.Path == "" || !l.loaded || l.ceded || !l.changed.Swap(false) {
		return nil
	}
	text, err := json.Marshal(l.Edges())
	if err == nil {
		err = replace(l.opts.Path, text)
	}
	if err != nil {
		l.changed.Store(true)
		return fmt.Errorf("write the ledger %s: %w; check that the directory is there and this user may write to it", l.opts.Path, err)
	}
	return nil
}

// replace writes a file so that a crash leaves the old or the new one: a file
// beside it, on the disk, takes its name.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600, and never through a link
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads the file and adds what it holds.
func (l *Ledger) load(now time.Time) {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.loaded = true
	text, err := read(l.opts.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var old Edges
	if err == nil {
		old, err = Parse(text)
	}
	if err != nil {
		aside := l.opts.Path + ".broken"
		if renamed := os.Rename(l.opts.Path, aside); renamed != nil {
			// Written over it would be lost.
			l.loaded = false
			l.log.Warn("the calls seen so far cannot be read, nor set aside: none are written down", "file", l.opts.Path, "error", errors.Join(err, renamed))
			return
		}
		l.log.Warn("the calls seen so far cannot be read; starting anew", "set_aside", aside, "error", err)
		return
	}
	l.restore(old, now)
}

// read reads a regular file of bounded size.
func read(path string) (_ []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it is larger than %d MB", maxFile>>20)
	}
	return text, err
}

// Parse reads what [Ledger.Edges] was written as: the file of a ledger or the
// answer of GET /v1/edges. The error says what is wrong with it.
func Parse(text []byte) (Edges, error) {
	var e Edges
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&e); err != nil {
		return Edges{}, fmt.Errorf("it is not a ledger: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Edges{}, errors.New("it is not a ledger: something follows after its end")
	}
	if e.Version != fileVersion {
		return Edges{}, fmt.Errorf("it is a ledger of version %d, and this program reads version %d", e.Version, fileVersion)
	}
	for i, one := range e.Edges {
		err := one.check()
		if one.Count == 0 && err == nil {
			err = errors.New("it was never seen")
		}
		if err != nil {
			return Edges{}, fmt.Errorf("edge %d: %w", i+1, err)
		}
	}
	return e, nil
}

// check refuses what no call makes. What passes can be written and read again.
func (e Edge) check() error {
	for _, text := range []string{e.Source, e.Peer, e.Namespace, e.Partition, e.Destination, e.Method, e.Path, e.Sample} {
		if len(text) > maxNames+maxForm || strings.ContainsFunc(text, unicode.IsControl) {
			return errors.New("a text is too long or has control characters")
		}
	}
	switch {
	case e.Direction != inboundWord && e.Direction != outboundWord:
		return fmt.Errorf("its direction is %.20q, want inbound or outbound", e.Direction)
	case e.Source == "" || e.Destination == "":
		return errors.New("it names no source or no destination")
	case (e.Method == "") != (e.Path == ""):
		return errors.New("it has a method without a path, or a path without a method")
	case e.Path != "" && e.Path != "*" && e.Path[0] != '/':
		return errors.New("its path does not begin with a slash")
	case len(e.Method) > maxMethod || strings.Contains(e.Method+e.Path+e.Sample, " ") || !utf8.ValidString(e.Source+e.Destination+e.Method+e.Path):
		return errors.New("its method or path cannot be one")
	}
	return nil
}

// restore adds edges of an earlier process to those of this one. What was not
// seen for long is left out.
func (l *Ledger) restore(old Edges, now time.Time) {
	l.adding.Lock()
	defer l.adding.Unlock()
	// Those that were seen last have the first claim to the room there is.
	slices.SortStableFunc(old.Edges, func(a, b Edge) int { return b.Last.Compare(a.Last) })
	l.forgotten.Add(old.Forgotten)
	for _, one := range old.Edges {
		if now.Sub(one.Last) > keepSeen {
			l.changed.Store(true)
			continue
		}
		if one.Last.After(now) {
			one.Last = now // the clock was wrong then
		}
		if one.First.After(one.Last) {
			one.First = one.Last
		}
		c := one.call()
		key := string(c.pair(nil)) + one.Method + "\x00" + one.Path
		e := l.find([]byte(key))
		if e == nil {
			is := one
			is.Count, is.First, is.Last = 0, time.Time{}, time.Time{}
			if e = l.put(key, is); e == nil {
				l.forgotten.Add(one.Count)
				continue
			}
			if one.Method != "" && one.Path != anyPath {
				l.paths[string(c.pair(nil))]++
			}
		}
		e.count.Add(one.Count)
		e.seen(one.First.Unix())
		e.seen(one.Last.Unix())
	}
}

// call is the call that the edge was made of, as far as the key goes.
func (e Edge) call() call {
	return call{
		inbound: e.Inbound(), allowed: e.Allowed, destination: e.Destination,
		source: connect.Identity{Service: e.Source, Peer: e.Peer, Namespace: orDefault(e.Namespace), Partition: orDefault(e.Partition)},
	}
}

func orDefault(name string) string {
	if name == "" {
		return connect.DefaultName
	}
	return name
}

// ServeHTTP answers with the edges as JSON, for GET /v1/edges. Names of services
// and forms of paths are in it, so it is for whoever may read the status.
func (l *Ledger) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	text, err := json.MarshalIndent(l.Edges(), "", "  ")
	if err != nil {
		http.Error(w, fmt.Sprintf("encode the edges: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(text, '\n'))
}

// Read reads a file with edges, of any ledger. The error says what to do.
func Read(path string) (Edges, error) {
	text, err := read(path)
	if err != nil {
		return Edges{}, fmt.Errorf("read the edges in %s: %w", path, err)
	}
	e, err := Parse(text)
	if err != nil {
		return Edges{}, fmt.Errorf("read the edges in %s: %w; it must be the answer of /v1/edges, or the file that an agent keeps", path, err)
	}
	return e, nil
}
