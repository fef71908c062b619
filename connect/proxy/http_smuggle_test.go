// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// attack is bytes on a connection, and what may come of them: the requests that
// the application reads, and the status codes that the attacker does ("open"
// when the connection is still there).
type attack struct {
	name, bytes, app, answers string
}

// follow is a good request. It goes after each attack on the same connection:
// whoever reads a message's end elsewhere reads this one wrong.
const follow = "GET /next HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"

const (
	next200 = "200 200"
	nextGet = " | GET /next []"
)

// post is a request with the lines that frame it, and what comes after them.
func post(lines, rest string) string {
	return "POST /p HTTP/1.1\r\nHost: api\r\n" + lines + "\r\n" + rest
}

// evil is a request that an attacker would like to be taken for one.
const evil = "GET /evil HTTP/1.1\r\nHost: api\r\n\r\n"

func withLength(body string) string {
	return post(fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
}

const chunkedHello = "5\r\nhello\r\n0\r\n\r\n"

// framing are attacks on where a message ends.
func framing() []attack {
	refused := func(name, lines, rest string) attack { return attack{name, post(lines, rest), "", "400"} }
	coding := func(name, lines string) attack { return attack{name, post(lines, chunkedHello), "", "501"} }
	const hello, served = "POST /p [hello]" + nextGet, next200
	return []attack{
		{"a body that is a request", withLength(evil), "POST /p [" + evil + "]" + nextGet, served},
		refused("two lengths that differ", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
		{"two lengths that agree", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), hello, served},
		refused("a list of lengths", "Content-Length: 5, 5\r\n", "hello"),
		refused("length with a plus", "Content-Length: +5\r\n", "hello"),
		refused("length with a minus", "Content-Length: -5\r\n", "hello"),
		refused("length in hex", "Content-Length: 0x5\r\n", "hello"),
		refused("length with a blank", "Content-Length: 5 0\r\n", "hello"),
		refused("length with a unit", "Content-Length: 5b\r\n", "hello"),
		refused("empty length", "Content-Length:\r\n", "hello"),
		refused("length beyond all numbers", "Content-Length: 99999999999999999999\r\n", "hello"),
		refused("length in digits of another script", "Content-Length: ٥\r\n", "hello"),
		refused("length with an underscore", "Content-Length: 1_0\r\n", "hello"),
		{"length, then chunked", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", chunkedHello), hello, served},
		{"chunked, then length", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunkedHello), hello, served},
		refused("chunked and two lengths", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", chunkedHello),
		refused("chunked and a bad length", "Content-Length: x\r\nTransfer-Encoding: chunked\r\n", chunkedHello),
		coding("an unknown coding", "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n"),
		coding("chunked, then identity", "Transfer-Encoding: chunked, identity\r\n"),
		coding("identity, then chunked", "Transfer-Encoding: identity, chunked\r\n"),
		coding("gzip, then chunked", "Transfer-Encoding: gzip, chunked\r\n"),
		coding("chunked twice in a list", "Transfer-Encoding: chunked, chunked\r\n"),
		coding("chunked in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
		coding("chunked and identity in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
		coding("identity", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n"),
		coding("an empty coding", "Transfer-Encoding:\r\nContent-Length: 5\r\n"),
		coding("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n"),
		coding("a coding with a parameter", "Transfer-Encoding: chunked;q=1\r\n"),
		refused("a vertical tab before the coding", "Transfer-Encoding: \x0bchunked\r\n", chunkedHello),
		refused("a vertical tab after the coding", "Transfer-Encoding: chunked\x0b\r\n", chunkedHello),
		refused("a blank before the colon", "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", chunkedHello),
		refused("a tab before the colon", "Transfer-Encoding\t: chunked\r\nContent-Length: 5\r\n", chunkedHello),
		refused("NUL in the name", "Transfer-Encoding\x00: chunked\r\n", chunkedHello),
		{"an upper-case coding", post("Transfer-Encoding: CHUNKED\r\n", chunkedHello), hello, served},
		{"a folded coding", post("Transfer-Encoding:\r\n chunked\r\n", chunkedHello), hello, served},
		{"a folded length", post("X-A: b\r\nContent-Length:\r\n\t5\r\n", "hello"), hello, served},
		{"a coding hidden in a fold", post("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), hello, served},
		{"a coding by an almost equal name", post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "hello"), hello, served},
		{"a coding named as of the connection", post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", chunkedHello), hello, served},
		{"a length named as of the connection", post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"), hello, served},
	}
}

// chunks are attacks on the coding of a body. The body is on its way when it
// turns out to be none: the application must see it break off, and what follows
// must not be taken for a request.
func chunks() []attack {
	body := func(s string) string { return post("Transfer-Encoding: chunked\r\n", s) }
	bad := func(name, s string) attack { return attack{name, body(s), "", "400"} }
	const hello = "POST /p [hello]" + nextGet
	return []attack{
		{"a chunk extension", body("5;a=b\r\nhello\r\n0\r\n\r\n"), hello, next200},
		{"a quoted chunk extension", body("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n"), hello, next200},
		{"leading zeros", body("0005\r\nhello\r\n0\r\n\r\n"), hello, next200},
		{"blanks after the size", body("5  \r\nhello\r\n0\r\n\r\n"), hello, next200},
		{"chunks of one byte", body(strings.Repeat("1\r\nx\r\n", 500) + "0\r\n\r\n"), "POST /p [" + strings.Repeat("x", 500) + "]" + nextGet, next200},
		bad("a line break in a quoted extension", "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n"),
		bad("a bare LF after the size", "5\nhello\r\n0\r\n\r\n"),
		bad("a bare CR after the size", "5\rhello\r\n0\r\n\r\n"),
		bad("a bare LF after the data", "5\r\nhello\n0\r\n\r\n"),
		bad("more data than the size", "5\r\nhelloo\r\n0\r\n\r\n"),
		bad("a size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
		bad("a size with a minus", "-5\r\nhello\r\n0\r\n\r\n"),
		bad("a size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
		bad("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
		bad("no size", "\r\nhello\r\n0\r\n\r\n"),
		bad("a size beyond all numbers", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
		bad("an endless extension", "5;"+strings.Repeat("a", 70<<10)+"\r\nhello\r\n0\r\n\r\n"),
		bad("much extension and little data", strings.Repeat("1;"+strings.Repeat("a", 2000)+"\r\nx\r\n", 100)+"0\r\n\r\n"),
		bad("endless trailers", "0\r\nX: "+strings.Repeat("a", 70<<10)+"\r\n\r\n"),
		bad("a trailer that is none", "0\r\nX y\r\n\r\n"),
	}
}

// lines are attacks on request lines and fields.
func lines() []attack {
	get := func(name, line, fields, app, answers string) attack {
		return attack{name, line + "\r\n" + fields + "\r\n", app, answers}
	}
	line := func(name, line string) attack { return get(name, line, "Host: api\r\n", "", "400") }
	// Where the request ends is clear, so that the connection goes on.
	judged := func(name, line, fields string) attack { return get(name, line, fields, "GET /next []", "400 200") }
	fields := func(name, fields string) attack { return get(name, "GET / HTTP/1.1", fields, "", "400") }
	const one = "GET / []" + nextGet
	return []attack{
		{"bare LF at every end", "GET / HTTP/1.1\nHost: api\n\n", one, next200},
		{"bare LF hides a field", "GET / HTTP/1.1\r\nHost: api\r\nX: y\nX-Evil: z\r\n\r\n", one, next200},
		{"bare CR at every end", "GET / HTTP/1.1\rHost: api\r\r", "", "400"},
		{"an empty line first", "\r\nGET / HTTP/1.1\r\nHost: api\r\n\r\n", "", "400"},
		line("two blanks", "GET  / HTTP/1.1"),
		line("a tab for a blank", "GET\t/ HTTP/1.1"),
		line("a blank in the target", "GET /a b HTTP/1.1"),
		line("a version in the target", "GET /a HTTP/1.1 HTTP/1.1"),
		line("a tab in the target", "GET /a\tb HTTP/1.1"),
		line("NUL in the target", "GET /a\x00b HTTP/1.1"),
		line("CR in the target", "GET /a\rb HTTP/1.1"),
		judged("a fragment", "GET /a#b HTTP/1.1", "Host: api\r\n"),
		line("an escape that is none", "GET /%zz HTTP/1.1"),
		line("a target that is no path", "GET api/x HTTP/1.1"),
		line("a target that is a query", "GET ?x HTTP/1.1"),
		judged("an opaque target", "GET http:api/x HTTP/1.1", "Host: api\r\n"),
		judged("a target of another scheme", "GET javascript:x HTTP/1.1", "Host: api\r\n"),
		judged("asterisk of GET", "GET * HTTP/1.1", "Host: api\r\n"),
		judged("authority with a user", "GET http://user@api/ HTTP/1.1", "Host: api\r\n"),
		line("no target", "GET HTTP/1.1"),
		line("no version", "GET /"),
		line("a version in lower case", "GET / http/1.1"),
		line("a version with three digits", "GET / HTTP/1.10"),
		line("a blank after the version", "GET / HTTP/1.1 "),
		line("a method with a separator", "GE(T / HTTP/1.1"),
		line("no method", " / HTTP/1.1"),
		get("HTTP/2 in a line", "GET / HTTP/2.0", "Host: api\r\n", "", "505"),
		get("HTTP/3 in a line", "GET / HTTP/3.0", "Host: api\r\n", "", "505"),
		get("a target with an authority", "GET http://shop/x HTTP/1.1", "Host: api\r\n", "GET /x []"+nextGet, next200),
		get("asterisk of OPTIONS", "OPTIONS * HTTP/1.1", "Host: api\r\n", "OPTIONS * []"+nextGet, next200),
		get("two slashes first", "GET //evil/x HTTP/1.1", "Host: api\r\n", "GET //evil/x []"+nextGet, next200),
		fields("no host", "X: y\r\n"),
		fields("two hosts", "Host: api\r\nHost: shop\r\n"),
		fields("two hosts that agree", "Host: api\r\nHost: api\r\n"),
		judged("an empty host", "GET / HTTP/1.1", "Host:\r\n"),
		fields("a host with a path", "Host: api/evil\r\n"),
		fields("a host with a user", "Host: user@api\r\n"),
		fields("a host with a blank", "Host: api evil\r\n"),
		judged("a host with an escape", "GET / HTTP/1.1", "Host: %61pi\r\n"),
		fields("a host with a query", "Host: api?x\r\n"),
		fields("hosts in a list", "Host: api, shop\r\n"),
		fields("a field without a colon", "Host: api\r\nX y\r\n"),
		fields("a field without a name", "Host: api\r\n: y\r\n"),
		fields("a blank in a name", "Host: api\r\nX Y: z\r\n"),
		fields("a fold before the first field", " X: y\r\nHost: api\r\n"),
		fields("NUL in a value", "Host: api\r\nX: a\x00b\r\n"),
		fields("CR in a value", "Host: api\r\nX: a\rX-Evil: b\r\n"),
		fields("a control character in a value", "Host: api\r\nX: a\x01b\r\n"),
		fields("a name that is not ASCII", "Host: api\r\nXé: y\r\n"),
		get("a folded value", "GET / HTTP/1.1", "Host: api\r\nX: a\r\n\t b\r\n", one, next200),
		get("a method of one's own", "EVIL / HTTP/1.1", "Host: api\r\n", "EVIL / []"+nextGet, next200),
		get("an expectation that nobody knows", "GET / HTTP/1.1", "Host: api\r\nExpect: 200-ok\r\n", "", "417"),
		get("a line beyond the limit", "GET /"+strings.Repeat("a", 100<<10)+" HTTP/1.1", "Host: api\r\n", "", "431"),
		get("a field beyond the limit", "GET / HTTP/1.1", "Host: api\r\nX: "+strings.Repeat("a", 100<<10)+"\r\n", "", "431"),
		get("more fields than the limit", "GET / HTTP/1.1", "Host: api\r\n"+strings.Repeat("X: y\r\n", 20_000), "", "431"),
	}
}

// order are attacks on which request an answer or a body belongs to.
func order() []attack {
	return []attack{
		{"pipelined", "GET /1 HTTP/1.1\r\nHost: api\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: api\r\n\r\n" + withLength("hello"), "GET /1 [] | HEAD /2 [] | POST /p [hello]" + nextGet, "200 204 200 200"},
		{"body of GET", "GET / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello", "GET / [hello]" + nextGet, next200},
		{"body of HEAD", fmt.Sprintf("HEAD / HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%s", len(evil), evil), "HEAD / [" + evil + "]" + nextGet, "204 200"},
		{"chunked body of DELETE", "DELETE / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkedHello, "DELETE / [hello]" + nextGet, next200},
		{"length of nothing", post("Content-Length: 0\r\n", evil), "POST /p [] | GET /evil []" + nextGet, "200 200 200"},
		{"body sent before the consent to it", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"), "POST /p [hello]" + nextGet, "100 200 200"},
		{"consent to no body", "GET / HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\n\r\n", "GET / []" + nextGet, next200},
		{"body of CONNECT", "CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n" + evil, "", "405"},
		{"HTTP/1.0 does not know chunks", "POST /p HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + evil, "POST /p []", "200"},
		{"HTTP/1.0 ends with one request", "GET / HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\n\r\n", "GET / []", "200"},
		{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", "", "400"},
		{"upgrade to cleartext HTTP/2", "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET / []" + nextGet, next200},
		{"upgrade answered as if not asked for", "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "GET / []" + nextGet, next200},
	}
}

// Whatever the bytes, the application reads exactly the requests that were
// judged, each framed in one way; what cannot be read in one way only is refused,
// and so is all that follows it.
func TestRequestsAreForwardedUnambiguouslyOrNotAtAll(t *testing.T) {
	r := newAttacked(t, nil)
	for _, list := range [][]attack{framing(), chunks(), lines(), order()} {
		for way, connect := range r.ways() {
			for _, a := range list {
				t.Run(way+"/"+a.name, func(t *testing.T) {
					c := connect(t)
					// The other side may hang up in the middle of it.
					go func() { _, _ = io.WriteString(c, a.bytes+follow) }()
					answers := statuses(c, 5*time.Second)
					arrivals, problems := r.app.take()
					if len(problems) > 0 {
						t.Errorf("the application read %q", problems)
					}
					if got := words(arrivals); got != a.app {
						t.Errorf("the application got\n%.200s, want\n%.200s", got, a.app)
					}
					if answers != a.answers {
						t.Errorf("the attacker got %q, want %q", answers, a.answers)
					}
				})
			}
		}
	}
}

// An application may answer before it has read the body. What comes of the body
// then, late, broken or never, is not a request.
func TestRestOfARequestThatIsAnsweredAlreadyIsNoRequest(t *testing.T) {
	for name, rest := range map[string]string{
		"a request for a chunk":   evil,
		"no chunk":                "zz\r\n" + evil,
		"a chunk without its end": "5\r\nhelloGET /evil HTTP/1.1\r\nHost: api\r\n\r\n",
		"bad trailers":            "0\r\nX y\r\n\r\n" + evil,
	} {
		t.Run(name, func(t *testing.T) {
			var evils atomic.Int64
			app := application(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
				from := bufio.NewReader(c)
				for line := ""; line != "\r\n"; {
					var err error
					if line, err = from.ReadString('\n'); err != nil {
						return
					}
					if strings.Contains(line, "/evil") {
						evils.Add(1)
					}
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_, _ = io.Copy(io.Discard, from)
			}).(*net.TCPAddr)
			r := newAttacked(t, nil)
			apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = app.Port }))
			for way, connect := range r.ways() {
				c := connect(t)
				_, _ = io.WriteString(c, post("Transfer-Encoding: chunked\r\n", ""))
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("%s: %v, %v", way, resp, err)
				}
				_ = resp.Body.Close()
				_, _ = io.WriteString(c, rest)
				if got := statuses(c, 2*time.Second); strings.Contains(got, "200") || evils.Load() > 0 {
					t.Errorf("%s: then came %q; %d evil requests", way, got, evils.Load())
				}
			}
		})
	}
}

// A body that still comes when the answer is out costs nobody the connection.
func TestConnectionGoesOnAfterABodyThatComesLate(t *testing.T) {
	r := newAttackedApp(t, onlyPublic, nil)
	c := r.fromPeer(t)
	from := bufio.NewReader(c)
	for range 3 {
		_, _ = io.WriteString(c, post("Content-Length: 5\r\n", "hello"))
		resp, err := http.ReadResponse(from, nil)
		if err != nil || resp.StatusCode != http.StatusForbidden || resp.Close {
			t.Fatalf("%v, %v", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if arrivals, problems := r.app.take(); len(arrivals)+len(problems) > 0 {
		t.Errorf("the application got %v, %q", arrivals, problems)
	}
}
