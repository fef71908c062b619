// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// strictApp is an application that takes requests apart byte by byte and calls
// whatever leaves room for a second reading a problem.
type strictApp struct {
	addr net.Addr
	// answer makes the response to a request; nil means 200 with "ok".
	answer func(arrival) string

	mu       sync.Mutex
	arrivals []arrival
	problems []string
}

// arrival is one request as the application read it off the wire.
type arrival struct {
	method, target string
	fields         []string // "Name: value", in order
	body           string
	trailers       []string
}

func (a arrival) String() string { return a.method + " " + a.target + " [" + a.body + "]" }

// field returns the values of a field, by a name of any case.
func (a arrival) field(name string) []string {
	var out []string
	for _, f := range a.fields {
		if n, v, _ := strings.Cut(f, ": "); strings.EqualFold(n, name) {
			out = append(out, v)
		}
	}
	return out
}

func newStrictApp(t testing.TB, answer func(arrival) string) *strictApp {
	t.Helper()
	a := &strictApp{answer: answer}
	a.addr = application(t, "tcp", "127.0.0.1:0", a.serve)
	return a
}

func (a *strictApp) serve(c net.Conn) {
	from := bufio.NewReaderSize(c, 1<<20)
	for {
		got, err := readArrival(from)
		if errors.Is(err, io.EOF) {
			return
		}
		a.mu.Lock()
		if err != nil {
			a.problems = append(a.problems, err.Error())
			a.mu.Unlock()
			return
		}
		a.arrivals = append(a.arrivals, got)
		a.mu.Unlock()
		answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		if got.method == "HEAD" {
			answer = "HTTP/1.1 204 No Content\r\n\r\n"
		}
		if a.answer != nil {
			answer = a.answer(got)
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

// take returns what has arrived since the last call.
func (a *strictApp) take() ([]arrival, []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	arrivals, problems := a.arrivals, a.problems
	a.arrivals, a.problems = nil, nil
	return arrivals, problems
}

// readArrival reads one request. io.EOF means that none began, or that one was
// broken off, which no reader can take for a whole one.
func readArrival(from *bufio.Reader) (arrival, error) {
	var a arrival
	line, err := strictLine(from)
	if err != nil {
		return a, io.EOF
	}
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] != "HTTP/1.1" {
		return a, fmt.Errorf("request line %q", line)
	}
	a.method, a.target = parts[0], parts[1]
	if strings.ContainsFunc(a.method, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r) }) {
		return a, fmt.Errorf("method of %q", line)
	}
	if a.fields, err = strictFields(from); err != nil {
		return a, err
	}
	if len(a.field("Host")) != 1 {
		return a, fmt.Errorf("%s: hosts %q", line, a.field("Host"))
	}
	lengths, codings := a.field("Content-Length"), a.field("Transfer-Encoding")
	switch {
	case len(lengths)+len(codings) > 1:
		return a, fmt.Errorf("%s: framed twice: %q %q", line, lengths, codings)
	case len(codings) == 1 && codings[0] != "chunked":
		return a, fmt.Errorf("%s: coding %q", line, codings[0])
	case len(codings) == 1:
		err = a.chunked(from)
	case len(lengths) == 1:
		n, bad := strconv.ParseUint(lengths[0], 10, 31)
		if bad != nil {
			return a, fmt.Errorf("%s: length %q", line, lengths[0])
		}
		body := make([]byte, n)
		if _, err = io.ReadFull(from, body); err != nil {
			return a, io.EOF
		}
		a.body = string(body)
	}
	return a, err
}

func (a *arrival) chunked(from *bufio.Reader) error {
	for {
		line, err := strictLine(from)
		if err != nil {
			return io.EOF
		}
		n, err := strconv.ParseUint(line, 16, 31)
		if err != nil {
			return fmt.Errorf("chunk size %q", line)
		}
		if n == 0 {
			a.trailers, err = strictFields(from)
			return err
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(from, data); err != nil {
			return io.EOF
		}
		if !bytes.HasSuffix(data, []byte("\r\n")) {
			return fmt.Errorf("chunk of %d ends with %q", n, data[n:])
		}
		a.body += string(data[:n])
	}
}

func strictFields(from *bufio.Reader) ([]string, error) {
	var out []string
	for {
		line, err := strictLine(from)
		if err != nil || line == "" {
			return out, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t\"(),/;<=>?@[\\]{}") || strings.Trim(value, " ") != strings.TrimSpace(value) {
			return out, fmt.Errorf("field line %q", line)
		}
		out = append(out, name+": "+strings.Trim(value, " "))
	}
}

// strictLine reads a line that ends with CR LF and holds no other control
// character.
func strictLine(from *bufio.Reader) (string, error) {
	line, err := from.ReadString('\n')
	if err != nil {
		return "", io.EOF
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return "", fmt.Errorf("line %q", line)
	}
	return text, nil
}

// attacked is web → api over HTTP with a strict application, and the two ways
// in: the local application's and a proved peer's.
type attacked struct {
	pair
	app *strictApp
}

func newAttacked(t testing.TB, change func(*connect.Snapshot)) *attacked {
	t.Helper()
	return newAttackedApp(t, change, nil)
}

func newAttackedApp(t testing.TB, change func(*connect.Snapshot), answer func(arrival) string) *attacked {
	t.Helper()
	ca, app := meshca.New("root"), newStrictApp(t, answer)
	limits := DefaultLimits()
	r := &attacked{pair: pair{ca: ca, api: start(t, limits), web: start(t, limits)}, app: app}
	r.apiSnap = service(ca, "api", app.addr)
	r.apiSnap.Service.Protocol = connect.HTTP
	if change != nil {
		change(r.apiSnap)
	}
	apply(t, r.api, r.apiSnap)
	r.webSnap = calling(service(ca, "web", nil), "api", []net.Addr{r.api.Inbound(t.Context())})
	r.webSnap.Chains["api"].Protocol = connect.HTTP
	apply(t, r.web, r.webSnap)
	return r
}

// ways are how bytes get in: as those of the local application and as those of
// a peer whose leaf is good.
func (r *attacked) ways() map[string]func(testing.TB) net.Conn {
	return map[string]func(testing.TB) net.Conn{"outbound": r.fromApp, "inbound": r.fromPeer}
}

func (r *attacked) fromApp(t testing.TB) net.Conn {
	t.Helper()
	return dial(t, r.web.Outbound(t.Context(), "api"))
}

func (r *attacked) fromPeer(t testing.TB) net.Conn {
	t.Helper()
	c, err := r.as(t, r.ca.Leaf("web", nil))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// statuses reads responses until the connection ends, or nothing comes for so
// long, and returns their status codes.
func statuses(c net.Conn, quiet time.Duration) string {
	from := bufio.NewReader(c)
	var out []string
	for {
		_ = c.SetReadDeadline(time.Now().Add(quiet))
		line, err := from.ReadString('\n')
		if err != nil {
			if timedOut(err) {
				out = append(out, "open")
			}
			return strings.Join(out, " ")
		}
		rest, ok := strings.CutPrefix(strings.Replace(line, "HTTP/1.0", "HTTP/1.1", 1), "HTTP/1.1 ")
		if !ok {
			return strings.Join(append(out, fmt.Sprintf("%q", line)), " ")
		}
		status, _, _ := strings.Cut(rest, " ")
		out = append(out, status)
		length, chunked := 0, false
		for line, err = from.ReadString('\n'); err == nil && line != "\r\n"; line, err = from.ReadString('\n') {
			if v, ok := strings.CutPrefix(line, "Content-Length: "); ok {
				length, _ = strconv.Atoi(strings.TrimSpace(v))
			}
			chunked = chunked || strings.HasPrefix(line, "Transfer-Encoding: chunked")
			if strings.HasPrefix(line, "Connection: close") {
				length = 1 << 20 // net/http's own answers have no length
			}
		}
		if chunked {
			length = 1 << 20
		}
		if status != "100" {
			_, _ = io.CopyN(io.Discard, from, int64(length))
		}
	}
}

// words lists arrivals for comparison.
func words(arrivals []arrival) string {
	out := make([]string, 0, len(arrivals))
	for _, a := range arrivals {
		out = append(out, a.String())
	}
	return strings.Join(slices.Clip(out), " | ")
}
