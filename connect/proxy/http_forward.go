// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// delivery is what is sent on: the request as it leaves us.
type delivery struct {
	head   connect.Head
	body   *upload // nil when the request has none
	length int64
	tries  int
}

// prepare makes the request that is sent on; retried says that it may be sent
// more than once.
func (x *exchange) prepare(head connect.Head, retried bool) {
	x.deliver = delivery{head: head, length: x.r.ContentLength}
	if x.r.Body == nil || x.r.Body == http.NoBody || x.r.ContentLength == 0 {
		// Not left to net/http to find out: when that takes a while, it sends an
		// empty body in chunks.
		x.deliver.length = 0
		x.timers.whole()
		return
	}
	keep := 0
	switch {
	case retried && x.hold(replayLimit, replayPercent):
		keep = replayLimit
	case x.r.ContentLength > 0 && x.r.ContentLength <= staleLimit:
		keep = staleLimit
	}
	from := x.r.Body
	if x.maxBody > 0 {
		from = http.MaxBytesReader(nil, from, x.maxBody)
	}
	x.deliver.body = &upload{x: x, from: from, keep: keep, trailer: endToEnd(x.r.Trailer)}
	x.sending.Store(x.deliver.body)
}

// request builds the request of one try.
func (x *exchange) request(ctx context.Context) *http.Request {
	d := &x.deliver
	if d.tries++; d.tries > 1 {
		// net/http may still be writing the header of the try before.
		d.head.Header = maps.Clone(d.head.Header)
	}
	x.passDeadline(d.head.Header)
	if x.span != nil {
		x.endTry = x.span.Try(d.head.Header)
	}
	r := &http.Request{
		Method: d.head.Method, URL: targetURL(d.head.Path), Host: d.head.Authority,
		Header: http.Header(d.head.Header), ContentLength: d.length,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if d.body != nil {
		body := d.body.fresh()
		r.Body, r.GetBody, r.Trailer = body, body.again, body.trailer
	}
	if r.Header["User-Agent"] == nil {
		r.Header["User-Agent"] = nil // keeps net/http from naming itself
	}
	return r.WithContext(ctx)
}

// targetURL is a URL whose request target is exactly path: what was authorised
// is what is sent.
func targetURL(path string) *url.URL {
	u := &url.URL{Scheme: "http", Host: "endpoint"}
	target, query, has := strings.Cut(path, "?")
	u.RawQuery, u.ForceQuery = query, has && query == ""
	if !strings.HasPrefix(target, "//") {
		u.Opaque = target
		return u
	}
	// An opaque part that starts with two slashes would become an authority.
	plain, err := url.PathUnescape(target)
	if err != nil {
		plain = target
	}
	u.Path, u.RawPath = plain, target
	return u
}

// upload is the body of the request on its way to whoever serves it. One try
// reads it: another begins only when it was read to its end and kept, or not
// touched at all. A try that has failed may still have a goroutine of net/http
// that is about to read; it gets nothing any more.
type upload struct {
	x    *exchange
	from io.ReadCloser
	keep int // bytes that are kept to send them again
	// trailer has the names of the fields that follow the body.
	trailer http.Header

	mu     sync.Mutex
	latest *replay // the body of the latest try
	reader *replay // who reads, once somebody has begun to
	whole  bool    // read to its end, and kept is all of it

	ended atomic.Bool // nothing more will be read
	// Of the reader, and of everybody once the body is whole.
	kept []byte
	lost bool // more has been read than may be kept
	end  error
}

// Bounds of what is kept of one request's body to send it again, in bytes: with
// a policy to retry, and without, for a connection that turns out to have gone.
const (
	replayLimit = 64 << 10
	staleLimit  = 4 << 10
)

var errNotKept = errors.New("the body cannot be sent again")

// fresh is the body from its beginning, for one more try, with a trailer of its
// own.
func (u *upload) fresh() *replay {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.latest = &replay{u: u, trailer: maps.Clone(u.trailer)}
	return u.latest
}

// replayable reports whether the request can be sent again.
func (u *upload) replayable() bool {
	if u == nil {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.whole || u.reader == nil
}

// admits reports whether a try may read.
func (u *upload) admits(r *replay) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reader == nil && u.latest == r {
		u.reader = r
	}
	return u.whole || u.reader == r
}

// finish notes the end of the body.
func (u *upload) finish(err error) {
	u.end = err
	u.ended.Store(true)
	if errors.Is(err, io.EOF) {
		u.mu.Lock()
		u.whole = !u.lost
		u.mu.Unlock()
		u.x.timers.whole()
		return
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		u.x.cancel(errLargeBody)
		return
	}
	// Not the endpoint's fault: the caller has gone, or sends what is no body.
	u.x.cancel(errBadBody)
}

// replay reads what was kept of a body, then on.
type replay struct {
	u       *upload
	at      int
	trailer http.Header // filled at the end, where net/http looks for it then
}

// again is what GetBody of a request is: the body for one more try of the same
// request, and so with the same trailer.
func (r *replay) again() (io.ReadCloser, error) {
	if !r.u.replayable() {
		return nil, errNotKept
	}
	next := r.u.fresh()
	next.trailer = r.trailer
	return next, nil
}

func (r *replay) Read(p []byte) (int, error) {
	u := r.u
	if !u.admits(r) {
		return 0, errNotKept
	}
	if r.at < len(u.kept) {
		n := copy(p, u.kept[r.at:])
		r.at += n
		return n, nil
	}
	if u.end == nil {
		n, err := u.from.Read(p)
		r.at += n
		u.x.uploadedBytes.Add(int64(n))
		u.remember(p[:n])
		u.x.timers.touch()
		if err == nil {
			return n, nil
		}
		u.finish(err)
		r.trail()
		return n, err
	}
	r.trail()
	return 0, u.end
}

// trail hands on the fields after the body that were announced before it.
func (r *replay) trail() {
	for name := range r.trailer {
		r.trailer[name] = r.u.x.r.Trailer[name]
	}
}

func (u *upload) remember(p []byte) {
	if u.lost = u.lost || len(u.kept)+len(p) > u.keep; u.lost {
		u.kept = nil
		return
	}
	u.kept = append(u.kept, p...)
}

// Close leaves the body to the server, which knows whether more is to be read.
func (r *replay) Close() error { return nil }

// buffers are for bodies under way.
type bufferPool struct{ pool sync.Pool }

const copyBuffer = 32 << 10

func (b *bufferPool) get() *[copyBuffer]byte {
	if v, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return v
	}
	return new([copyBuffer]byte)
}

func (b *bufferPool) put(v *[copyBuffer]byte) { b.pool.Put(v) }

// respond passes a response on. edit may change its header.
func (x *exchange) respond(resp *http.Response, edit func(http.Header)) error {
	defer func() {
		// The context first: closing waits for a request that is still being
		// sent, and only that ends it.
		x.why = context.Cause(x.ctx)
		x.cancel(nil)
		_ = resp.Body.Close()
	}()
	if b := x.deliver.body; b != nil && !b.ended.Load() {
		// net/http's HTTP/2 does not look at the context while it waits for more
		// of the request; closing the response ends both.
		stop := context.AfterFunc(x.ctx, func() { _ = resp.Body.Close() })
		defer stop()
	}
	h := resp.Header
	dropHop(h)
	edit(h)
	x.flowing.Store(true) // before the look at the context: see end
	if x.sent || x.ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	x.begin()
	copyInto(x.w.Header(), h)
	if h["Content-Type"] == nil {
		x.w.Header()["Content-Type"] = nil // keeps net/http from guessing one
	}
	for name := range endToEnd(resp.Trailer) {
		x.w.Header().Add("Trailer", name)
	}
	x.answered(resp.StatusCode)
	x.w.WriteHeader(resp.StatusCode)
	if err := x.download(resp); err != nil {
		return err
	}
	x.trailers(resp)
	if x.grpc {
		x.record.GRPCStatus = grpcCode(resp)
	}
	return nil
}

// begin says that the response's header goes out now.
func (x *exchange) begin() {
	x.sent = true
	if x.c.server.Draining() || (x.r.ProtoMajor == 1 && x.r.ProtoMinor == 0) {
		// HTTP/1.0 has more than one idea of where a request ends.
		x.w.Header()["Connection"] = []string{"close"}
	}
}

// trailers sends on what came after the body; names that were not announced
// need net/http's prefix.
func (x *exchange) trailers(resp *http.Response) {
	for name, values := range resp.Trailer {
		if len(values) > 0 && mayTrail(name) {
			x.w.Header()[http.TrailerPrefix+name] = values
			delete(x.w.Header(), name)
		}
	}
}

// download copies the body, and sends what has come before it waits for more.
func (x *exchange) download(resp *http.Response) error {
	if resp.Body == http.NoBody {
		return nil
	}
	flush := http.NewResponseController(x.w).Flush
	buf := x.p.buffers.get()
	defer x.p.buffers.put(buf)
	left := resp.ContentLength
	if left < 0 {
		_ = flush() // the header of a stream must not wait for its first byte
	}
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			x.timers.touch()
			if _, failed := x.w.Write(buf[:n]); failed != nil {
				return &clientGone{failed}
			}
			x.downloadedBytes.Add(int64(n))
			if left -= int64(n); left != 0 && n < len(buf) && err == nil {
				_ = flush()
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// clientGone is an error of writing the response: not the endpoint's fault.
type clientGone struct{ err error }

func (e *clientGone) Error() string { return e.err.Error() }
func (e *clientGone) Unwrap() error { return e.err }

// wireKind is the kind of a failed round trip.
func wireKind(err error) wire.Kind {
	if failed, ok := errors.AsType[*wire.Error](err); ok {
		return failed.Kind
	}
	return wire.Reset
}
