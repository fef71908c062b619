// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package bounded serves HTTP to a few clients of this host, so that none of them
// can take descriptors, memory or time from the traffic. It must not know what is
// served.
package bounded

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Limits of one listener.
type Limits struct {
	Conns             int64 // those beyond are closed at once
	Header            int   // bytes of a request's header
	Read, Write, Idle time.Duration
}

// headerWithin bounds how long a request's header may take.
const headerWithin = 5 * time.Second

// lastAnswer bounds how long requests under way may take at the end: the answer
// may be the one that says why this ends.
const lastAnswer = time.Second

// Serve serves h on l until ctx ends, which is no error, and closes l. Requests
// under way then have a second to end.
func Serve(ctx context.Context, l net.Listener, h http.Handler, limits Limits) error {
	var open atomic.Int64
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: headerWithin,
		ReadTimeout: limits.Read, WriteTimeout: limits.Write, IdleTimeout: limits.Idle, MaxHeaderBytes: limits.Header,
		ConnState: func(conn net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if open.Add(1) > limits.Conns {
					_ = conn.Close()
				}
			case http.StateClosed, http.StateHijacked:
				open.Add(-1)
			}
		},
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAnswer)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if stop() {
		return err
	}
	<-ended
	return nil
}
