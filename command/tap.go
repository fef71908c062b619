// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/outrider-mesh/outrider/agent/tap"
)

// maxTapLine bounds one line of a tap: an event is a few KiB.
const maxTapLine = 1 << 20

// tapFlags are the filters, which go to the agent as they are, and what to do with
// the answer.
type tapFlags struct {
	text   map[string]*string
	truth  map[string]*bool
	rate   int
	asJSON bool
	count  int
	span   time.Duration
	admin  string
}

func (f *tapFlags) register(fs *flag.FlagSet) {
	f.text, f.truth = map[string]*string{}, map[string]*bool{}
	for name, usage := range map[string]string{
		"service":   "of the local service with this `NAME` only",
		"direction": "inbound, outbound, exposed or passed only",
		"source":    "from the service with this `NAME` only, such as web or east/web",
		"upstream":  "to the upstream with this `NAME` only",
		"reason":    "with this `REASON` only, such as intention_denied",
		"status":    "with this `STATUS` only, such as 404 or 5xx",
		"method":    "with this `METHOD` only, such as GET",
		"path":      "with a path that begins with this `PREFIX` only",
		"kind":      "connection or request only; without it, connections that only carried requests are left out",
	} {
		f.text[name] = fs.String(name, "", usage)
	}
	for name, usage := range map[string]string{
		"failed":  "what failed only",
		"headers": "show all headers, secrets hidden",
		"unsafe":  "show all headers and queries with the secrets that they hold",
	} {
		f.truth[name] = fs.Bool(name, false, usage)
	}
	fs.IntVar(&f.rate, "rate", tap.DefaultRate, "show at most this `NUMBER` each second, and how many were left out")
	fs.BoolVar(&f.asJSON, "json", false, "print JSON, one object on a line")
	fs.IntVar(&f.count, "n", 0, "end after this `NUMBER`; 0 for no end")
	fs.DurationVar(&f.span, "for", 0, "end after this `TIME`; 0 for no end")
	fs.StringVar(&f.admin, "admin", cmp.Or(os.Getenv("OUTRIDER_ADMIN"), defaultAdmin), "`ADDRESS` of the admin socket (OUTRIDER_ADMIN)")
}

func (f *tapFlags) query() url.Values {
	q := url.Values{"rate": {strconv.Itoa(f.rate)}}
	for name, value := range f.text {
		if *value != "" {
			q.Set(name, *value)
		}
	}
	for name, yes := range f.truth {
		if *yes {
			q.Set(name, "1")
		}
	}
	return q
}

func runTap(i invocation) int {
	var f tapFlags
	fs := i.flags("tap", "[FILTERS] [-json]")
	f.register(fs)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if fs.NArg() > 0 {
		return i.misuse("tap: unexpected argument %q", fs.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if f.span > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.span)
		defer cancel()
	}
	begun := time.Now()
	seen := tapped{invocation: i, asJSON: f.asJSON, limit: f.count}
	err := seen.watch(ctx, f.admin, f.query())
	seen.sum(time.Since(begun))
	if err != nil && ctx.Err() == nil {
		return i.fail("tap: %v", err)
	}
	return exitOK
}

// tapped is what came through a tap.
type tapped struct {
	invocation
	asJSON bool
	limit  int // 0 for none

	shown, failed int
	leftOut       map[string]uint64 // by why
}

// watch prints what the agent shows until ctx ends, the limit is reached, or the
// agent ends.
func (s *tapped) watch(ctx context.Context, address string, q url.Values) error {
	host, dial := reachAdmin(address)
	transport := &http.Transport{DialContext: dial, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true, ResponseHeaderTimeout: 10 * time.Second}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v1/tap?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("ask the agent at %s: %w; is it running, and may you use its socket? -admin names another", address, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("the agent at %s: %s: %s", address, res.Status, printable(strings.TrimSpace(string(text))))
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxTapLine)
	for lines.Scan() {
		if err := s.line(lines.Bytes()); err != nil {
			return err
		}
		if s.limit > 0 && s.shown >= s.limit {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the agent at %s: %w", address, err)
	}
	return errors.New("the agent has ended, or another process took over from it; start again")
}

// line prints one line of the agent's answer.
func (s *tapped) line(text []byte) error {
	var l struct {
		tap.Event
		tap.Notice
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return fmt.Errorf("understand the agent's answer: %w; client and agent may be of different versions", err)
	}
	if l.LeftOut > 0 {
		if s.leftOut == nil {
			s.leftOut = make(map[string]uint64)
		}
		s.leftOut[l.Because] += l.LeftOut
	} else {
		s.shown++
		if l.Failed() {
			s.failed++
		}
	}
	if s.asJSON {
		_, _ = s.stdout.Write(append(harmless(text), '\n'))
		return nil
	}
	p := printer{out: s.stdout}
	if l.LeftOut > 0 {
		p.line(0, "… %d left out: %s", l.LeftOut, l.Because)
		return nil
	}
	p.line(0, "%s  %s%s%s", l.Time.Local().Format("15:04:05.000"), sentence(&l.Outline), optional("  ", l.Why), optional("  ?", l.Query))
	p.header(">", l.RequestHeader)
	p.header("<", l.ResponseHeader)
	return nil
}

func (p printer) header(mark string, h map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, value := range h[name] {
			p.line(2, "%s %s: %s", mark, name, value)
		}
	}
}

// sum says what came in all, apart from the output.
func (s *tapped) sum(span time.Duration) {
	parts := []string{fmt.Sprintf("%d shown in %s, %d of them failed", s.shown, took(float64(span)/float64(time.Millisecond)), s.failed)}
	for _, why := range slices.Sorted(maps.Keys(s.leftOut)) {
		parts = append(parts, fmt.Sprintf("%d left out: %s", s.leftOut[why], why))
	}
	_, _ = fmt.Fprintln(s.stderr, printable(strings.Join(parts, "; ")))
}
