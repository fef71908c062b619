// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// A Client turns connections into HTTP client connections. One serves a whole
// process.
type Client struct {
	h1      *http.Transport
	h2      [windowSizes]*http.Transport
	memory  Memory
	buffers batchBuffers
}

// continueWait is how long a body is held back for the other side's consent
// (RFC 9110, 10.1.1).
const continueWait = time.Second

// keepAlive is how long an HTTP/2 connection may be silent before it is probed:
// a peer that vanished is noticed, and its streams fail instead of hanging.
const (
	keepAlive      = 30 * time.Second
	keepAliveReply = 15 * time.Second
)

// NewClient returns a client whose responses may have headers of maxHeader
// bytes, and may be sent ahead as far as memory has room; nil means as far as
// ever.
func NewClient(maxHeader int, memory Memory) *Client {
	transport := func(w window, set func(*http.Protocols)) *http.Transport {
		protocols := new(http.Protocols)
		set(protocols)
		return &http.Transport{
			DialContext:            handedOver,
			Protocols:              protocols,
			DisableCompression:     true,
			ExpectContinueTimeout:  continueWait,
			MaxResponseHeaderBytes: int64(maxHeader),
			WriteBufferSize:        16 << 10,
			ReadBufferSize:         16 << 10,
			HTTP2: &http.HTTP2Config{
				MaxReceiveBufferPerConnection: w.connection,
				MaxReceiveBufferPerStream:     w.stream,
				SendPingTimeout:               keepAlive,
				PingTimeout:                   keepAliveReply,
			},
		}
	}
	c := &Client{memory: memory, h1: transport(window{}, func(p *http.Protocols) { p.SetHTTP1(true) })}
	for i, w := range windows() {
		c.h2[i] = transport(w, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	}
	return c
}

type handedKey struct{}

// handedOver is the dialler of the transports: the connection is made already.
func handedOver(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, ok := ctx.Value(handedKey{}).(net.Conn)
	if !ok {
		return nil, errors.New("no connection was handed over")
	}
	return conn, nil
}

func (c *Client) open(ctx context.Context, conn *counted, h2 bool) (*http.ClientConn, error) {
	transport := c.h1
	if h2 {
		index, release := widest(c.memory)
		transport, conn.Conn = c.h2[index], &released{conn.Conn, release}
	}
	cc, err := transport.NewClientConn(context.WithValue(ctx, handedKey{}, net.Conn(conn)), "http", "endpoint:80")
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("start HTTP on the connection: %w", err)
	}
	return cc, nil
}

// A Kind says at which point a request failed.
type Kind int

// Every Kind.
const (
	// DialFailed: there was no connection; the request was not sent.
	DialFailed Kind = iota
	// Overflowed: a limit on connections or on waiting requests was reached.
	Overflowed
	// Refused: the other side said that it has not looked at the request
	// (REFUSED_STREAM, GOAWAY).
	Refused
	// Reset: the connection or stream ended before a response; the request may
	// have been acted on.
	Reset
	// Ended: the request's own context ended.
	Ended
)

// An Error is why a request got no response.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// unprocessed reports whether an HTTP/2 error proves that the other side has
// not acted on the request (RFC 9113, 8.7). net/http keeps the error of GOAWAY
// to itself, so its text must do; a test holds it to a real server.
func unprocessed(err error) bool {
	if stream, ok := errors.AsType[http2.StreamError](err); ok {
		return stream.Code == http2.ErrCodeRefusedStream
	}
	text := err.Error()
	return strings.Contains(text, "graceful shutdown GOAWAY") || strings.Contains(text, "client connection force closed") ||
		strings.Contains(text, "client conn not usable") || strings.Contains(text, "client conn is closed")
}
