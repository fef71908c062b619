// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// farewell is the status with which the application ends a WebSocket when it is
// told to.
const farewell websocket.StatusCode = 4042

// echoSocket returns each message, and ends the conversation on "bye".
func echoSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(-1)
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if string(message) == "bye" {
			_ = c.Close(farewell, "as you wish")
			return
		}
		if err := c.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

func webSocketsEcho(t *testing.T, consul *realserver.Consul) {
	_, caller := pair(t, consul, "socket", service{}, service{app: serve(t, http.HandlerFunc(echoSocket))})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, strings.Replace(caller.base, "http", "ws", 1)+"/chat?room=1", &websocket.DialOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(-1)
	if res.StatusCode != http.StatusSwitchingProtocols || c.Subprotocol() != "echo" {
		t.Errorf("status %d, subprotocol %q", res.StatusCode, c.Subprotocol())
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	for i := range 50 {
		kind, message := websocket.MessageText, []byte("message "+strconv.Itoa(i))
		if i%10 == 9 {
			kind, message = websocket.MessageBinary, large
		}
		if err := c.Write(ctx, kind, message); err != nil {
			t.Fatal(err)
		}
		gotKind, got, err := c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if gotKind != kind || !bytes.Equal(got, message) {
			t.Fatalf("message %d of %d bytes came back as %v of %d bytes", i, len(message), gotKind, len(got))
		}
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Read(ctx)
	if closed, ok := errors.AsType[websocket.CloseError](err); !ok || closed.Code != farewell || closed.Reason != "as you wish" {
		t.Errorf("the application's end arrived as %v", err)
	}
}

// aDenyEndsWebSockets withdraws an intention under an open conversation: what
// was a request to begin with is judged as one for as long as it lasts.
func aDenyEndsWebSockets(t *testing.T, consul *realserver.Consul) {
	o, caller := pair(t, consul, "parlour", service{}, service{app: serve(t, http.HandlerFunc(echoSocket))})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(caller.base, "http", "ws", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	say := func() error {
		if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			return err
		}
		_, _, err := c.Read(ctx)
		return err
	}
	if err := say(); err != nil {
		t.Fatal(err)
	}
	entry(t, consul, `{"Kind":"service-intentions","Name":"parlour","Sources":[{"Name":"web-parlour","Action":"deny"}]}`)
	if _, _, err := c.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("the conversation was not ended: %v", err)
	}
	if n := o.sidecar(t, "parlour").Proxy.Refused[connect.IntentionDenied]; n == 0 {
		t.Error("no denial is counted")
	}
	caller.want(t, http.StatusForbidden, "/")
}

// block is what large bodies are made of.
const block = 1 << 20

// stream is a body of n blocks, each another one.
type stream struct {
	block [block]byte
	at    int // in the block
	count int // blocks that have been read
	n     int
	sum   uint32
}

func newStream(n int) *stream {
	s := &stream{n: n}
	for i := range s.block {
		s.block[i] = byte(i * 7 >> 3)
	}
	return s
}

func (s *stream) Read(p []byte) (int, error) {
	if s.count == s.n {
		return 0, io.EOF
	}
	if s.at == 0 {
		copy(s.block[:], strconv.Itoa(s.count))
	}
	n := copy(p, s.block[s.at:])
	s.sum = crc32.Update(s.sum, crc32.IEEETable, p[:n])
	if s.at += n; s.at == block {
		s.at, s.count = 0, s.count+1
	}
	return n, nil
}

// echoBody sends back what it gets, as it gets it.
func echoBody(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ProtoMajor == 1 {
		_ = control.EnableFullDuplex()
	}
	_ = control.Flush()
	_, _ = io.CopyBuffer(struct{ io.Writer }{w}, r.Body, make([]byte, 256<<10))
}

// TestLargeBodiesPassBothWaysAtOnceInBoundedMemory sends 1 GiB to an application
// that sends it back at the same time; over HTTP/2, which takes more than twice as
// long, a quarter of that, which is still four times what may be held. The program has no race detector in it: that multiplies memory and time.
func TestLargeBodiesPassBothWaysAtOnceInBoundedMemory(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "outrider")
	if err := harness.Build(program, ".."); err != nil {
		t.Fatal(err)
	}
	consul := newHTTPMesh(t)
	for protocol, mib := range map[string]int{"http": 1024, "http2": 256} {
		t.Run(protocol, func(t *testing.T) {
			name := "bulk-" + protocol
			entry(t, consul, `{"Kind":"service-defaults","Name":%q,"Protocol":%q}`, name, protocol)
			port := freePort(t)
			api := startProgram(t, consul, program, service{name: name, app: serve(t, http.HandlerFunc(echoBody))}.stanza(t))
			web := startProgram(t, consul, program, service{name: "web-" + name, upstream: name, port: port}.stanza(t))
			web.usableEndpoints(t, 1)
			c := newCaller(t, port, protocol == "http2")
			echo(t, c, 16)
			before := map[*outrider]int{web: web.memory(t, "VmRSS"), api: api.memory(t, "VmRSS")}
			began := time.Now()
			echo(t, c, mib)
			t.Logf("%d MiB both ways in %v", mib, time.Since(began))
			for o, name := range map[*outrider]string{web: "web", api: "api"} {
				after := o.memory(t, "VmHWM")
				t.Logf("%s: %d KiB before, %d KiB at most", name, before[o], after)
				if grown := after - before[o]; grown >= 64<<10 {
					t.Errorf("the outrider of %s has grown by %d KiB, from %d to %d", name, grown, before[o], after)
				}
			}
		})
	}
}

// echo sends a body of n blocks and expects it back.
func echo(t *testing.T, c *caller, n int) {
	t.Helper()
	sent := newStream(n)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+"/echo", sent)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	sum := crc32.NewIEEE()
	got, err := io.CopyBuffer(sum, res.Body, make([]byte, 256<<10))
	if err != nil {
		t.Fatalf("after %d bytes: %v", got, err)
	}
	if got != int64(n)*block || sum.Sum32() != sent.sum {
		t.Errorf("%d bytes came back, checksum %08x; %d were sent, checksum %08x", got, sum.Sum32(), int64(n)*block, sent.sum)
	}
}

// startProgram is start for another program than the one all tests run.
func startProgram(t *testing.T, consul *realserver.Consul, program, config string) *outrider {
	t.Helper()
	o := &outrider{program: program}
	o.configure(t, consul, config)
	return o
}

// memory is a figure of the process in KiB (proc_pid_status(5)).
func (o *outrider) memory(t *testing.T, name string) int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", o.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), name+":")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[1] != "kB" {
		t.Fatalf("no %s in %s", name, content)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
