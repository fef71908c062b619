// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2peer speaks HTTP/2 frame by frame, so that it can speak it wrong.
type h2peer struct {
	net.Conn
	*http2.Framer
	block bytes.Buffer
	hpack *hpack.Encoder
}

func newH2Peer(t testing.TB, c net.Conn) *h2peer {
	t.Helper()
	h := &h2peer{Conn: c, Framer: http2.NewFramer(c, c)}
	h.AllowIllegalWrites = true
	h.hpack = hpack.NewEncoder(&h.block)
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(c, http2.ClientPreface)
	if err == nil {
		err = h.WriteSettings()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// header encodes fields, given as name, value, name, value.
func (h *h2peer) header(fields ...string) []byte {
	h.block.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = h.hpack.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(h.block.Bytes())
}

// open sends a header as one frame, however large a frame may be.
func (h *h2peer) open(stream uint32, end bool, fields ...string) {
	_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: h.header(fields...), EndStream: end, EndHeaders: true})
}

// outcome reads what becomes of a stream: its status, or the error that ended it
// or the connection.
func (h *h2peer) outcome(stream uint32) string {
	_ = h.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String()
		}
	}
}

func good() []string {
	return []string{":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/"}
}

// with replaces or adds fields of a good header.
func with(fields ...string) []string {
	out := good()
	for i := 0; i+1 < len(fields); i += 2 {
		if at := slices.Index(out, fields[i]); at >= 0 {
			out[at+1] = fields[i+1]
			continue
		}
		out = append(out, fields[i:i+2]...)
	}
	return out
}

func without(name string) []string {
	out := good()
	at := slices.Index(out, name)
	return slices.Delete(out, at, at+2)
}

// frames is an attack with frames of HTTP/2: what becomes of stream 1, and what
// the application, which speaks HTTP/1.1, reads.
type frames struct {
	name    string
	fields  []string
	data    string // "" for none: the header ends the stream
	outcome string
	app     string
}

const (
	protocolError = "PROTOCOL_ERROR"
	forwarded     = "GET / []"
)

// heads are headers that HTTP/2 can carry and HTTP/1 cannot, or not as one
// request.
func heads() []frames {
	refused := func(name string, fields ...string) frames {
		return frames{name, with(fields...), "", protocolError, ""}
	}
	invalid := func(name string, fields ...string) frames { return frames{name, with(fields...), "", "400", ""} }
	return []frames{
		{"good", good(), "", "200", forwarded},
		{"two slashes", with(":path", "//evil/x"), "", "200", "GET //evil/x []"},
		{"a host that differs", with("host", "evil"), "", "200", forwarded},
		{"a host instead of an authority", append(without(":authority"), "host", "api"), "", "200", forwarded},
		{"an absolute path", with(":path", "http://evil/x"), "", "200", "GET /x []"},
		{"a coding that is not HTTP/2's", with("te", "trailers"), "", "200", forwarded},
		{"upper case in a name", append(good(), "X-Evil", "1"), "", protocolError, ""},
		{"a blank in a name", append(good(), "x evil", "1"), "", protocolError, ""},
		{"a colon in a name", append(good(), "x:evil", "1"), "", protocolError, ""},
		{"a line break in a name", append(good(), "x: y\r\nx-evil", "1"), "", protocolError, ""},
		{"an empty name", append(good(), "", "1"), "", protocolError, ""},
		refused("a line break in a value", "x", "y\r\nx-evil: 1"),
		refused("LF in a value", "x", "y\nx-evil: 1"),
		refused("CR in a value", "x", "y\rx-evil: 1"),
		refused("NUL in a value", "x", "y\x00"),
		{"a path twice", append(good(), ":path", "/evil"), "", protocolError, ""},
		{"a method twice", append([]string{":method", "POST"}, good()...), "", protocolError, ""},
		{"a pseudo header last", append(append([]string{"x", "y"}, good()...), ":path", "/evil"), "", protocolError, ""},
		refused("an unknown pseudo header", ":evil", "1"),
		refused("a pseudo header of responses", ":status", "200"),
		{"no path", without(":path"), "", protocolError, ""},
		{"no method", without(":method"), "", protocolError, ""},
		{"no scheme", without(":scheme"), "", protocolError, ""},
		{"no authority", without(":authority"), "", "400", ""},
		refused("an empty path", ":path", ""),
		refused("a path without a slash", ":path", "evil"),
		refused("a path with a line break", ":path", "/ HTTP/1.1\r\nX-Evil: 1"),
		refused("an escape that is none", ":path", "/%zz"),
		refused("another scheme", ":scheme", "javascript"),
		invalid("a path with a blank", ":path", "/a b"),
		invalid("a path with a version", ":path", "/a HTTP/1.1"),
		invalid("a path with a fragment", ":path", "/a#b"),
		invalid("an asterisk", ":path", "*"),
		invalid("a method with a target", ":method", "GET /evil HTTP/1.1"),
		invalid("a method with a blank", ":method", "GET "),
		refused("a method with a line break", ":method", "GET /evil HTTP/1.1\r\nHost: api\r\n\r\nGET"),
		refused("an authority with a line break", ":authority", "api\r\nX-Evil: 1"),
		refused("an authority with a user", ":authority", "user@api"),
		invalid("an authority with a path", ":authority", "api/evil"),
		invalid("an authority with a blank", ":authority", "api evil"),
		invalid("authorities in a list", ":authority", "api,evil"),
		{"CONNECT", []string{":method", "CONNECT", ":authority", "api:80"}, "", "405", ""},
		{"CONNECT for a protocol", with(":method", "CONNECT", ":protocol", "websocket"), "", protocolError, ""},
		invalid("a field of the connection", "connection", "close"),
		invalid("a coding", "transfer-encoding", "chunked"),
		invalid("an upgrade", "upgrade", "websocket"),
		invalid("a keep-alive", "keep-alive", "1"),
		invalid("a proxy's connection", "proxy-connection", "close"),
		invalid("another te", "te", "gzip"),
	}
}

// bodies are bodies whose length is told in two ways.
func bodies() []frames {
	post := func(fields ...string) []string { return with(append([]string{":method", "POST"}, fields...)...) }
	const hello = "POST / [hello]"
	return []frames{
		{"of no length", post(), "hello", "200", hello},
		{"of its length", post("content-length", "5"), "hello", "200", hello},
		{"that is a request", post(), evil, "200", "POST / [" + evil + "]"},
		{"that is a chunk", post(), "0\r\n\r\n" + evil, "200", "POST / [0\r\n\r\n" + evil + "]"},
		{"that is missing", post("content-length", "5"), "", "200", "POST / []"},
		{"shorter than its length", post("content-length", "50"), "hello", "400", ""},
		{"longer than its length", post("content-length", "3"), "hello", protocolError, ""},
	}
}

// A client that speaks HTTP/2 to us must not say two requests to an application
// that speaks HTTP/1.1 to us.
func TestHTTP2IsTranslatedUnambiguouslyOrNotAtAll(t *testing.T) {
	r := newAttacked(t, nil)
	for way, connect := range r.ways() {
		for _, a := range append(heads(), bodies()...) {
			t.Run(way+"/"+a.name, func(t *testing.T) {
				h := newH2Peer(t, connect(t))
				h.open(1, a.data == "", a.fields...)
				if a.data != "" {
					_ = h.WriteData(1, true, []byte(a.data))
				}
				outcome := h.outcome(1)
				arrivals, problems := r.app.take()
				if len(problems) > 0 {
					t.Errorf("the application read %q", problems)
				}
				if got := words(arrivals); got != a.app {
					t.Errorf("the application got %.200s, want %.200s", got, a.app)
				}
				if outcome != a.outcome {
					t.Errorf("the stream ended with %q, want %q", outcome, a.outcome)
				}
				for _, got := range arrivals {
					if host := got.field("Host"); host[0] != "api" || got.field("X-Evil") != nil {
						t.Errorf("the application got the fields %q", got.fields)
					}
				}
			})
		}
	}
}

// When a body comes to a request that has none, the request may have gone out,
// and been answered, already: without a body.
func TestBodyThatWasNotAnnouncedGoesNowhere(t *testing.T) {
	for _, length := range []string{"0", "+5", "x", "5,5", "18446744073709551621"} {
		r := newAttacked(t, nil)
		for way, connect := range r.ways() {
			h := newH2Peer(t, connect(t))
			h.open(1, false, with(":method", "POST", "content-length", length)...)
			_ = h.WriteData(1, true, []byte(evil))
			if got := h.outcome(1); got != protocolError && got != "200" {
				t.Errorf("%s, length %q: the stream ended with %q", way, length, got)
			}
		}
		until(t, "the requests are over", func() bool {
			n, _ := r.underway()
			return n == 0
		})
		arrivals, problems := r.app.take()
		for _, a := range arrivals {
			if a.String() != "POST / []" {
				problems = append(problems, a.String())
			}
		}
		if len(problems) > 0 {
			t.Errorf("length %q: the application read %q", length, problems)
		}
	}
}

// Trailers come when the header has been judged.
func TestTrailersOfHTTP2DoNotBecomeFields(t *testing.T) {
	r := newAttacked(t, nil)
	for way, connect := range r.ways() {
		for _, name := range []string{"authorization", "x-forwarded-client-cert", "content-length", "host", ":path", "x-unannounced"} {
			h := newH2Peer(t, connect(t))
			h.open(1, false, with(":method", "POST", "trailer", "x-sum, authorization, x-forwarded-client-cert, host")...)
			_ = h.WriteData(1, false, []byte("hello"))
			h.open(1, true, "x-sum", "42", name, "7")
			outcome := h.outcome(1)
			arrivals, problems := r.app.take()
			if len(problems) > 0 {
				t.Errorf("%s, %s: the application read %q", way, name, problems)
			}
			for _, got := range arrivals {
				if trailers := fmt.Sprint(got.trailers); trailers != "[X-Sum: 42]" || slices.Contains(got.field(name), "7") || outcome != "200" {
					t.Errorf("%s, %s: %s, the application got %q, %s", way, name, outcome, got.fields, trailers)
				}
			}
			if len(arrivals) == 0 && outcome != protocolError {
				t.Errorf("%s, %s: the stream ended with %s", way, name, outcome)
			}
		}
	}
}

// Whoever speaks the protocol wrong below the level of requests loses the
// connection, and nothing reaches the application.
func TestBrokenFramesEndTheConnection(t *testing.T) {
	r := newAttacked(t, nil)
	var told []*h2peer
	for way, connect := range r.ways() {
		for name, attack := range map[string]func(*h2peer){
			"an even stream": func(h *h2peer) { h.open(2, true, good()...) },
			"a stream that goes back": func(h *h2peer) {
				h.open(5, false, with(":method", "POST")...)
				h.open(3, true, good()...)
			},
			"data of no stream":       func(h *h2peer) { _ = h.WriteData(1, true, []byte("hello")) },
			"a continuation of none":  func(h *h2peer) { _ = h.WriteContinuation(1, true, h.header(good()...)) },
			"a header in between":     interrupted,
			"an unknown table entry":  func(h *h2peer) { _ = h.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0xff, 0xff, 0x7f}) },
			"a string without an end": func(h *h2peer) { _ = h.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0x00, 0x7f, 'x'}) },
			"a frame too large":       func(h *h2peer) { _ = h.WriteRawFrame(http2.FrameHeaders, 5, 1, make([]byte, 2<<20)) },
			"a window of nothing":     func(h *h2peer) { _ = h.WriteWindowUpdate(0, 0) },
			"a window beyond all":     func(h *h2peer) { _ = h.WriteWindowUpdate(0, 1<<31-1) },
			"settings with a stream":  func(h *h2peer) { _ = h.WriteRawFrame(http2.FrameSettings, 0, 1, nil) },
			"a ping of four bytes":    func(h *h2peer) { _ = h.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 4)) },
			"a push":                  func(h *h2peer) { _ = h.WriteRawFrame(http2.FramePushPromise, 4, 1, []byte{0, 0, 0, 2}) },
		} {
			h := newH2Peer(t, connect(t))
			go attack(h)
			if got := h.outcome(99); !strings.HasPrefix(got, "GOAWAY ") || got == "GOAWAY NO_ERROR" {
				t.Errorf("%s, %s: the connection ended with %q", way, name, got)
			}
			if arrivals, problems := r.app.take(); len(arrivals)+len(problems) > 0 {
				t.Errorf("%s, %s: the application got %v, %q", way, name, arrivals, problems)
			}
			told = append(told, h)
		}
	}
	for _, h := range told { // net/http gives them a second to hear of it
		closed(t, h)
	}
}

func interrupted(h *h2peer) {
	_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.header(good()...), EndStream: true})
	_ = h.WritePing(false, [8]byte{})
}
