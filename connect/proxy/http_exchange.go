// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/request"
)

// exchange is one HTTP request and its response on their way through the proxy.
type exchange struct {
	p     *Proxy
	c     *conn
	rt    *runtime // the one that the request began with
	w     http.ResponseWriter
	r     *http.Request
	began time.Time
	due   time.Time // when the caller gives up; zero when it has not said
	grpc  bool
	// upgrade says that the request asks for a WebSocket.
	upgrade bool

	ctx    context.Context
	cancel context.CancelCauseFunc
	timers timers
	// judged is what intentions have decided on, for when they change; nil
	// before. What it points to is never written to afterwards.
	judged atomic.Pointer[connect.Head]
	caller connect.Identity // who is judged, set before judged is

	maxBody  int64                  // bytes of the request's body; 0 means no limit
	sent     bool                   // the response's header has gone out
	hijacked bool                   // the connection is a tunnel now
	flowing  atomic.Bool            // the response is somebody else's, and takes as long as the caller does
	why      error                  // the cause of the context's end by the end of the response
	sending  atomic.Pointer[upload] // the body under way, for end
	facts    request.Facts
	deliver  delivery
	held     int64 // bytes of memory, given back at the end

	record       flow.Record
	tries        [2]flow.Try // where the record's are kept while there are few
	span         flow.Span   // nil when nobody follows
	endTry       func(*flow.Try)
	gone         bool   // the caller has left before the end
	remoteReason string // what the sidecar of the other side says
	// Bytes of bodies. They are counted by whoever reads.
	uploadedBytes, downloadedBytes atomic.Int64
}

// Causes that end an exchange from within.
var (
	errRequestTimeout = errors.New("the request's time is up")
	errCallerDeadline = errors.New("the caller's own deadline has passed")
	errIdleTimeout    = errors.New("nothing was sent either way for too long")
	errDenied         = errors.New("an intention was withdrawn")
	errLargeBody      = errors.New("the request's body is larger than the service takes")
	errBadBody        = errors.New("the request's body cannot be read to its end")
)

// requests are the exchanges of one connection.
type requests struct {
	mu   sync.Mutex
	open map[*exchange]struct{}
	over bool
	left sync.WaitGroup
}

// add registers an exchange unless the connection has ended.
func (q *requests) add(x *exchange) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over {
		return false
	}
	if q.open == nil {
		q.open = make(map[*exchange]struct{}, 1)
	}
	q.open[x] = struct{}{}
	q.left.Add(1)
	return true
}

func (q *requests) remove(x *exchange) {
	q.mu.Lock()
	delete(q.open, x)
	q.mu.Unlock()
	q.left.Done()
}

// end admits no more exchanges and waits for those that are left.
func (q *requests) end() {
	q.mu.Lock()
	q.over = true
	q.mu.Unlock()
	q.left.Wait()
}

// each calls f for every open exchange.
func (q *requests) each(f func(*exchange)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for x := range q.open {
		f(x)
	}
}

// exchange runs one request: it registers it before the runtime is loaded, so
// that a withdrawn intention meets it either here or at its own start.
func (p *Proxy) exchange(w http.ResponseWriter, r *http.Request, serve func(*exchange)) {
	c, ok := connOf(r)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	x := &exchange{p: p, c: c, w: w, r: r, began: time.Now(), grpc: r.ProtoMajor >= 2 && isGRPC(r)}
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	if c.spent.Load() || !c.requests.add(x) {
		panic(http.ErrAbortHandler)
	}
	defer c.requests.remove(x)
	defer x.cancel(nil)
	defer x.timers.stop()
	defer x.account()
	defer x.guard()
	if r.ProtoMajor == 1 {
		// Without it net/http reads the rest of the request before it answers.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	x.upgrade = r.ProtoMajor == 1 && r.ProtoMinor > 0 && wantsWebSocket(r.Header)
	dropHop(r.Header)
	if x.upgrade {
		setWebSocket(r.Header)
	}
	x.rt = p.runtime.Load()
	x.introduce()
	p.counts.of(c.upstream).requests.Add(1)
	defer func() { p.memory.Give(x.held) }()
	if x.hold(requestReserve, admitPercent) {
		serve(x)
	} else {
		x.refuse(overflowed(), p.whyShort()...)
	}
	x.settle()
}

// hold takes memory until the end of the exchange.
func (x *exchange) hold(n int64, percent int) bool {
	if !x.p.memory.Take(n, percent) {
		return false
	}
	x.held += n
	return true
}

// guard lets a panic end its request alone.
func (x *exchange) guard() {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		x.p.counts.panics.Add(1)
		faulted(&x.record)
		x.p.log.Error("a request handler panicked; the request is ended, the rest goes on", "listener", listenerName(x.c.upstream), "panic", v)
	}
	if x.r.ProtoMajor == 1 {
		// net/http would wait for the rest of the request before it hangs up.
		x.c.cut()
	}
	panic(http.ErrAbortHandler)
}

// end ends an exchange from within. What a caller does not send, or does not
// read, does not hold it up. Only for an exchange that is registered: afterwards,
// the connection may be another's.
func (x *exchange) end(cause error) {
	x.cancel(cause)
	control := http.NewResponseController(x.w)
	if b := x.sending.Load(); b != nil && !b.ended.Load() {
		if x.r.ProtoMajor == 1 {
			x.c.spent.Store(true)
		}
		_ = control.SetReadDeadline(x.began)
	}
	if x.flowing.Load() {
		_ = control.SetWriteDeadline(x.began)
	}
}

// rejudge asks a new policy about a request that is under way.
func (x *exchange) rejudge(rt *runtime) (policy.Decision, bool) {
	head := x.judged.Load()
	if head == nil {
		return policy.Decision{}, false // it has not been judged, and will be by the new policy
	}
	d := rt.policy.AuthorizeRequest(x.caller, head, x.began)
	return d, !d.Allowed
}

// head is what decisions are made on. Its header is that of the request.
// What concerns only the connection is not in it any more.
func (x *exchange) head() connect.Head {
	return connect.Head{
		Method: x.r.Method, Scheme: "http", Authority: x.r.Host, Path: x.target(), Header: connect.Header(x.r.Header),
	}
}

// target is what the request asks for, with its query.
func (x *exchange) target() string {
	if path := x.r.RequestURI; strings.HasPrefix(path, "/") || path == "*" {
		return path
	}
	return x.r.URL.RequestURI() // absolute form (RFC 9112, 3.2.2)
}

func isGRPC(r *http.Request) bool {
	kind := r.Header.Get("Content-Type")
	rest, ok := strings.CutPrefix(kind, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}
