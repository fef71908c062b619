// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package tap

import (
	"encoding/json"
	"net"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

const (
	// writeWithin is how long a watcher may take to read what the connection holds;
	// one who takes longer is gone, or has stopped.
	writeWithin = 10 * time.Second
	// noticeEvery is how often a watcher is told what was left out.
	noticeEvery = time.Second
)

// ServeHTTP shows what happens as lines of JSON, each an [Event] or a [Notice],
// until the watcher leaves or [Tap.Run] ends. Parameters choose; see docs/tap.md.
// It answers on a unix socket only: what it shows must not be within reach of a
// web page that runs on this host.
func (t *Tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || local.Network() != "unix" {
		http.Error(w, "requests are shown on the admin socket only, not on a port", http.StatusForbidden)
		return
	}
	want, err := parse(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	self := &watcher{
		filter: want.Filter, show: want.show, events: make(chan *Event, queued),
		pace: rate.NewLimiter(rate.Limit(want.rate), want.rate),
	}
	if !t.join(self) {
		http.Error(w, "too many watch already, or the agent is ending; end one of them", http.StatusServiceUnavailable)
		return
	}
	defer t.leave(self)
	if want.unsafe {
		t.log.Warn("somebody with access to the admin socket is shown requests with their secrets", "service", want.Service)
		defer t.log.Warn("requests are no longer shown with their secrets")
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	t.stream(w, r, self)
}

// stream writes until somebody ends it.
func (t *Tap) stream(w http.ResponseWriter, r *http.Request, self *watcher) {
	control := http.NewResponseController(w)
	// The server's bounds are for answers; this one ends when somebody wants it.
	_ = control.SetReadDeadline(time.Time{})
	encode := json.NewEncoder(w)
	encode.SetEscapeHTML(false)
	write := func(line any) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writeWithin))
		return (line == nil || encode.Encode(line) == nil) && control.Flush() == nil
	}
	if !write(nil) { // the watcher knows from now on that it sees everything
		return
	}
	tick := time.NewTicker(noticeEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-t.ended:
			return
		case e := <-self.events:
			if !write(e) {
				return
			}
		case <-tick.C:
			for _, n := range self.notices() {
				if !write(n) {
					return
				}
			}
		}
	}
}

// notices says what was left out since it was asked last.
func (w *watcher) notices() []*Notice {
	var out []*Notice
	if n := w.tooMany.Swap(0); n > 0 {
		out = append(out, &Notice{LeftOut: n, Because: "the rate of this tap"})
	}
	if n := w.tooSlow.Swap(0); n > 0 {
		out = append(out, &Notice{LeftOut: n, Because: "the reader is slow"})
	}
	return out
}
