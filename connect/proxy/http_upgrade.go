// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/outrider-mesh/outrider/connect"
)

// switchProtocols passes a 101 on and then bytes both ways, as after a
// WebSocket handshake (RFC 9110, 7.8), until either side ends. The total time
// of the route is over with the response; silence still counts.
func (x *exchange) switchProtocols(resp *http.Response, edit func(http.Header)) {
	remote, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || !x.upgrade || !wantsWebSocket(resp.Header) {
		_ = resp.Body.Close()
		x.refuse(unreachable(connect.StreamReset, "protocol error"), "error", "an upgrade that nobody asked for")
		return
	}
	defer func() { _ = remote.Close() }()
	x.timers.lift()
	dropHop(resp.Header)
	edit(resp.Header)
	setWebSocket(resp.Header)
	copyInto(x.w.Header(), resp.Header)
	x.sent = true
	x.answered(http.StatusSwitchingProtocols)
	x.w.WriteHeader(http.StatusSwitchingProtocols)
	local, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.p.log.Debug("cannot take over the connection for an upgrade", "error", err)
		panic(http.ErrAbortHandler)
	}
	x.hijacked = true
	defer func() { _ = local.Close() }()
	if err := buffered.Flush(); err != nil {
		return
	}
	x.splice(local, buffered, remote)
}

// splice copies both ways. The end of either, or of the exchange, ends both:
// protocols that upgrade say goodbye for themselves.
func (x *exchange) splice(local io.ReadWriteCloser, from io.Reader, remote io.ReadWriteCloser) {
	stop := context.AfterFunc(x.ctx, func() {
		_ = local.Close()
		_ = remote.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		x.pump(remote, from, &x.uploadedBytes)
		_ = remote.Close()
	})
	x.pump(local, remote, &x.downloadedBytes)
	_ = local.Close()
	_ = remote.Close()
	both.Wait()
	if cause := context.Cause(x.ctx); errors.Is(cause, errIdleTimeout) {
		x.p.fail(&x.record, connect.RequestTimeout, "ended an upgraded connection", "listener", listenerName(x.c.upstream), "error", cause)
	} else {
		x.withdrawn(cause)
	}
}

func (x *exchange) pump(to io.Writer, from io.Reader, count *atomic.Int64) {
	buf := x.p.buffers.get()
	defer x.p.buffers.put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			x.timers.touch()
			if _, failed := to.Write(buf[:n]); failed != nil {
				return
			}
			count.Add(int64(n))
		}
		if err != nil {
			return
		}
	}
}
