// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package mtls

import (
	"errors"
	"io"
	"net"
)

// ErrTruncated is the error of a TLS connection whose TCP connection ended
// without TLS's own end. crypto/tls lets that pass for an orderly end, so that
// anyone on the path could cut a stream short unnoticed (RFC 8446 §6.1).
var ErrTruncated = errors.New("connection ended without a TLS close notification: it may be cut short")

// NoTruncation returns conn, to be put under a TLS connection, with its end
// replaced by ErrTruncated. TLS that ends in order never reads that far.
func NoTruncation(conn net.Conn) net.Conn { return &underTLS{conn} }

type underTLS struct{ net.Conn }

func (u *underTLS) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = ErrTruncated
	}
	return n, err
}
