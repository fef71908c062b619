// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// wellFormed refuses a request whose head another reader could take for
// something else, whatever net/http let through. Paths are judged apart.
func (x *exchange) wellFormed(head *connect.Head) bool {
	if head.Method == http.MethodConnect {
		if x.r.ProtoMajor == 1 {
			// What follows may be meant for the other end of a tunnel.
			x.w.Header()["Connection"] = []string{"close"}
			x.c.spent.Store(true)
		}
		x.refuse(invalid(http.StatusMethodNotAllowed, whyConnect))
		return false
	}
	why := malformed(head)
	if why == "" && x.r.URL.User != nil {
		why = "the target names a user"
	}
	if why == "" {
		return true
	}
	x.refuse(invalid(http.StatusBadRequest, http.StatusText(http.StatusBadRequest)), "why", why)
	return false
}

const whyConnect = "CONNECT is not served"

// malformed says what of a head another reader could take for something else, ""
// for nothing.
func malformed(head *connect.Head) string {
	switch {
	case !onlyOf(head.Method, letters+digits+"!#$%&'*+-.^_`|~"):
		// HTTP/2 carries any text, which HTTP/1 would read as a request line.
		return "the method is not a token"
	case !onlyOf(head.Authority, letters+digits+"-._~!$&'()*+;=:[]"):
		return "the host is missing or has characters that no host has"
	}
	return ""
}

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

func onlyOf(s, chars string) bool {
	for i := range len(s) {
		if strings.IndexByte(chars, s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

// How long, and for how many bytes, the rest of a request is waited for whose
// answer is known already.
const (
	restBefore = 50 * time.Millisecond // the answer goes out
	restAfter  = time.Second
	restBytes  = 256 << 10
)

// uploaded reports whether nothing more is read of the body, and whether that is
// because it has come to its end: so that in HTTP/1, the next request begins
// where this one ends. In HTTP/2 that is so by itself.
func (x *exchange) uploaded() (over, whole bool) {
	if x.r.ProtoMajor != 1 || x.r.ContentLength == 0 {
		return true, true
	}
	if b := x.deliver.body; b != nil && b.ended.Load() {
		return true, errors.Is(b.end, io.EOF)
	}
	return false, false
}

// clear reads what is left of the body, for so long, and reports whether that
// was all of it.
func (x *exchange) clear(grace time.Duration) bool {
	if over, whole := x.uploaded(); over {
		return whole
	}
	if x.c.spent.Load() || x.r.Header["Expect"] != nil {
		return false // reading would ask the client for what nobody wants
	}
	control := http.NewResponseController(x.w)
	_ = control.SetReadDeadline(time.Now().Add(grace))
	_, err := io.CopyN(io.Discard, x.r.Body, restBytes)
	_ = control.SetReadDeadline(time.Time{})
	return errors.Is(err, io.EOF)
}

// settle ends an exchange that has been answered. A connection is not used again
// when it is not clear where the next request begins: what is left of a body, or
// follows one that was none, must not be read as one.
func (x *exchange) settle() {
	over, whole := x.uploaded()
	if whole || x.hijacked {
		return
	}
	if !over {
		_ = http.NewResponseController(x.w).Flush() // the answer does not wait for it
		if x.clear(restAfter) {
			return
		}
	}
	x.c.spent.Store(true)
	// net/http reads on before it hangs up. Reading here makes sure that nobody
	// else is about to, whom it would call off, and the deadline with him.
	_ = http.NewResponseController(x.w).SetReadDeadline(x.began)
	_, _ = io.CopyN(io.Discard, x.r.Body, 1)
}
