// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// A message is what predecessor and successor say to each other, one JSON text
// after the other: first the predecessor with Sockets, then the successor with
// its PID, with what it Plans to register before it does, and with Ready or Error,
// then the predecessor with Over, after which the successor is in charge. It closes
// the connection when those who watch the process know that it is. Whose other side
// falls silent before Over ends it.
type message struct {
	Sockets []key    `json:",omitempty"`
	PID     int      `json:",omitempty"`
	Plans   []string `json:",omitempty"` // what the successor is about to register
	Ready   bool     `json:",omitempty"`
	Serves  []string `json:",omitempty"` // what the successor has registered
	Version string   `json:",omitempty"`
	Error   string   `json:",omitempty"`
	Over    bool     `json:",omitempty"`
}

var errEnded = errors.New("the other process has ended")

// maxConversation bounds what is read from the other side.
const maxConversation = 4 << 20

type conversation struct {
	conn    net.Conn
	decoder *json.Decoder
}

func converse(fd int) (*conversation, error) {
	file := os.NewFile(uintptr(fd), "handover")
	if file == nil {
		return nil, fmt.Errorf("%d is no descriptor", fd)
	}
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return newConversation(conn), nil
}

func newConversation(conn net.Conn) *conversation {
	return &conversation{conn: conn, decoder: json.NewDecoder(io.LimitReader(conn, maxConversation))}
}

func (c *conversation) close() { _ = c.conn.Close() }

func (c *conversation) send(m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(helloWithin)); err != nil {
		return err
	}
	_, err = c.conn.Write(append(body, '\n'))
	return err
}

// receive waits for the next message until ctx ends, and no longer than within; 0
// is no such bound.
func (c *conversation) receive(ctx context.Context, within time.Duration) (message, error) {
	if within > 0 {
		bounded, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		ctx = bounded
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var m message
	err := c.decoder.Decode(&m)
	if ctx.Err() != nil {
		return m, ctx.Err()
	}
	// What it was told and had not read yet is lost with a process that ends.
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return m, errEnded
	}
	return m, err
}
