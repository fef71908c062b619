// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
)

// The fields of every request, beside what its protocol asks for.
const (
	userAgent = "outrider-bench/1"
	accept    = "application/json"
	requestID = "5c9f3a1e-71c5-4d06-a9b4-9f6e0d1c2b3a"
	target    = "/v1/items/42?verbose=1"
)

// http1 writes requests that were made beforehand and reads no more of the
// answers than it must, so that it costs little beside what it measures.
func http1(method string, bodySize int) generator {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: api\r\nUser-Agent: %s\r\nAccept: %s\r\nX-Request-Id: %s\r\n", method, target, userAgent, accept, requestID)
	if bodySize > 0 {
		head += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", bodySize)
	}
	request := append([]byte(head+"\r\n"), bytes.Repeat([]byte("y"), bodySize)...)
	return clients(func(ctx context.Context, address string, n int) ([]client, error) {
		var all []client
		for range n {
			conn, err := dial(ctx, address)
			if err != nil {
				return nil, err
			}
			all = append(all, &http1Client{conn, bufio.NewReader(conn), request})
		}
		return all, nil
	})
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

type http1Client struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func (c *http1Client) close() { _ = c.conn.Close() }

func (c *http1Client) call(context.Context) error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("the answer is %q", status)
	}
	length := -1
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length != answerSize {
		return fmt.Errorf("the answer has %d bytes", length)
	}
	_, err = c.in.Discard(length)
	return err
}

// http2Gets keeps streams open on up to four connections: the answer to one is
// followed by the next.
func http2Gets(ctx context.Context, address string, atATime int) (loader, error) {
	all := make([]*http2Conn, min(connections, atATime))
	for i := range all {
		conn, err := dial(ctx, address)
		if err != nil {
			return nil, err
		}
		all[i] = newHTTP2(conn)
		for s := i; s < atATime; s += len(all) {
			all[i].slots = append(all[i].slots, s)
		}
	}
	return func(ctx context.Context, seen func(int, time.Time, time.Time)) error {
		later, done := afterwards(ctx)
		defer done()
		failed := make(chan error, len(all))
		for _, c := range all {
			go func() {
				defer c.conn.Close()
				defer context.AfterFunc(later, func() { _ = c.conn.Close() })()
				failed <- c.run(ctx, seen)
			}()
		}
		var first error
		for range all {
			first = cmp.Or(first, <-failed)
		}
		return first
	}, nil
}

// http2Stream is one request under way.
type http2Stream struct {
	slot  int
	began time.Time
	size  int
}

type http2Conn struct {
	conn    net.Conn
	slots   []int
	out     *bufio.Writer
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	next    uint32
	streams map[uint32]*http2Stream
	unread  uint32 // bytes of the connection's window that are used up
}

const window = 1 << 20

func newHTTP2(conn net.Conn) *http2Conn {
	c := &http2Conn{conn: conn, out: bufio.NewWriter(conn), next: 1, streams: make(map[uint32]*http2Stream)}
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(conn, 32<<10))
	c.framer.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.block)
	return c
}

// run sends the first requests of the connection's slots, then one for each
// answer.
func (c *http2Conn) run(ctx context.Context, seen func(int, time.Time, time.Time)) error {
	_, _ = c.out.WriteString(http2.ClientPreface) // errors of out are kept until Flush
	_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	_ = c.framer.WriteWindowUpdate(0, window)
	for _, slot := range c.slots {
		c.send(slot)
	}
	if err := c.out.Flush(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		if err := c.take(frame, seen); err != nil {
			return err
		}
		if err := c.out.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func (c *http2Conn) send(slot int) {
	c.block.Reset()
	for _, f := range [...]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "api"}, {Name: ":path", Value: target},
		{Name: "user-agent", Value: userAgent}, {Name: "accept", Value: accept}, {Name: "x-request-id", Value: requestID},
	} {
		_ = c.encoder.WriteField(f) // into memory
	}
	c.streams[c.next] = &http2Stream{slot: slot, began: time.Now()}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: c.block.Bytes(), EndStream: true, EndHeaders: true})
	c.next += 2
}

// take handles one frame of the other side.
func (c *http2Conn) take(frame http2.Frame, seen func(int, time.Time, time.Time)) error {
	ended := false
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.HeadersFrame:
		// Only 200 has this index (RFC 7541, Appendix A), which every encoder uses.
		if block := f.HeaderBlockFragment(); c.streams[f.StreamID].size == 0 && !bytes.Contains(block[:min(8, len(block))], []byte{0x88}) {
			return fmt.Errorf("the answer's header block begins with %x", block[:min(8, len(block))])
		}
		ended = f.StreamEnded()
	case *http2.DataFrame:
		c.streams[f.StreamID].size += len(f.Data())
		if c.unread += f.Length; c.unread > window/2 {
			_ = c.framer.WriteWindowUpdate(0, c.unread)
			c.unread = 0
		}
		ended = f.StreamEnded()
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return fmt.Errorf("the other side sent %v", f)
	}
	if ended {
		id := frame.Header().StreamID
		s := c.streams[id]
		if s.size != answerSize {
			return fmt.Errorf("the answer has %d bytes", s.size)
		}
		delete(c.streams, id)
		seen(s.slot, s.began, time.Now())
		c.send(s.slot)
	}
	return nil
}

// grpcUnary is gRPC's own client on up to four connections.
func grpcUnary() generator {
	return clients(func(_ context.Context, address string, n int) ([]client, error) {
		var shared []*grpc.ClientConn
		for range min(connections, n) {
			conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return nil, fmt.Errorf("make a gRPC client of %s: %w", address, err)
			}
			shared = append(shared, conn)
		}
		var all []client
		for i := range n {
			all = append(all, grpcClient{shared[i%len(shared)], grpc_testing.NewTestServiceClient(shared[i%len(shared)]), &grpc_testing.SimpleRequest{
				ResponseSize: answerSize, Payload: &grpc_testing.Payload{Body: make([]byte, 128)},
			}})
		}
		return all, nil
	})
}

type grpcClient struct {
	conn    *grpc.ClientConn
	service grpc_testing.TestServiceClient
	request *grpc_testing.SimpleRequest
}

// close ends a connection that others may share: they end at the same time.
func (c grpcClient) close() { _ = c.conn.Close() }

func (c grpcClient) call(ctx context.Context) error {
	answer, err := c.service.UnaryCall(ctx, c.request)
	if err == nil && len(answer.GetPayload().GetBody()) != answerSize {
		err = fmt.Errorf("the answer has %d bytes", len(answer.GetPayload().GetBody()))
	}
	return err
}
