// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func nothing() usage { return usage{} }

// Everything that is reported stands on the generators counting right answers
// and nothing else.
func TestGeneratorsLoadTheApplicationAndCountItsAnswers(t *testing.T) {
	t.Parallel()
	stdin, stop := io.Pipe()
	said, say := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serveApplication(stdin, say) }()
	var at addresses
	if err := json.NewDecoder(said).Decode(&at); err != nil {
		t.Fatal(err)
	}
	for _, p := range protocols() {
		for _, w := range p.loads {
			address := at.HTTP
			if p.name == "grpc" {
				address = at.GRPC
			}
			s, err := load(t.Context(), w.run, address, w.atATime, 0, 500*time.Millisecond, nothing)
			if err != nil {
				t.Fatalf("%s, %s, %d at a time: %v", p.name, w.name, w.atATime, err)
			}
			if s.quantile(0.5) <= 0 || s.quantile(0.5) > s.quantile(0.99) {
				t.Errorf("%s, %s, %d at a time: %d requests, p50 %v, p99 %v", p.name, w.name, w.atATime, s.requests, s.quantile(0.5), s.quantile(0.99))
			}
		}
	}
	_ = stop.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWrongAnswersEndTheMeasurement(t *testing.T) {
	t.Parallel()
	answers := map[string]http.HandlerFunc{
		"status": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(make([]byte, answerSize))
		},
		"length": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "short") },
	}
	for name, answer := range answers {
		app := httpApplication()
		app.Handler = answer
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- app.Serve(l) }()
		for _, p := range protocols()[:2] {
			w := p.loads[0]
			if _, err := load(t.Context(), w.run, l.Addr().String(), 1, 0, 200*time.Millisecond, nothing); err == nil || !strings.Contains(err.Error(), "the answer") {
				t.Errorf("%s, wrong %s: %v", p.name, name, err)
			}
		}
		_ = app.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}
}

func TestAnApplicationThatIsNotThereIsAnError(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	address := gone.Listener.Addr().String()
	gone.Close()
	for _, p := range protocols() {
		if _, err := load(t.Context(), p.loads[0].run, address, 1, 0, 100*time.Millisecond, nothing); err == nil {
			t.Errorf("%s: no error", p.name)
		}
	}
}

// Requests that began before the span or ended after it are not of it.
func TestOnlyWhatIsWithinTheSpanCounts(t *testing.T) {
	t.Parallel()
	const warm, span = 50 * time.Millisecond, 100 * time.Millisecond
	var began time.Time
	send := func(ctx context.Context, seen func(int, time.Time, time.Time)) error {
		from := began.Add(warm)
		for _, r := range [][2]time.Duration{{-time.Millisecond, time.Millisecond}, {10 * time.Millisecond, 30 * time.Millisecond}, {span - time.Millisecond, span + 50*time.Millisecond}} {
			seen(0, from.Add(r[0]), from.Add(r[1]))
		}
		<-ctx.Done()
		return nil
	}
	run := func(context.Context, string, int) (loader, error) {
		began = time.Now()
		return send, nil
	}
	s, err := load(t.Context(), run, "", 1, warm, span, nothing)
	if err != nil || s.requests != 1 || s.latencies[0] != 20*time.Millisecond {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestProcessFilesAreRead(t *testing.T) {
	t.Parallel()
	cpu, err := parseCPUTime("4242 (a (b) c) S 1 4242 4242 0 -1 4194560 900 0 0 0 150 25 7 8 20 0 9 0 100 0 0")
	if err != nil || cpu != 1750*time.Millisecond {
		t.Errorf("CPU time %v, %v", cpu, err)
	}
	machine, err := parseMachineTime("cpu  100 1 20 9000 300 2 3 4 5 6\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if err != nil || machine != 1300*time.Millisecond {
		t.Errorf("machine %v, %v", machine, err)
	}
	m, err := parseMemory("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n")
	if err != nil || m != (memory{1 << 20, 2 << 20}) {
		t.Errorf("memory %+v, %v", m, err)
	}
	if _, err := parseCPUTime("1 (x) S"); err == nil {
		t.Error("no error for a line without CPU time")
	}
	if _, err := parseMachineTime("intr 1"); err == nil {
		t.Error("no error for a file without CPU times")
	}
	if _, err := parseMemory("Name:\tx\n"); err == nil {
		t.Error("no error for a file without memory")
	}
}

func TestReportHoldsMediansAndRatios(t *testing.T) {
	t.Parallel()
	round := func(requests int, web time.Duration) sample {
		s := sample{requests: requests, span: time.Second, used: usage{web: web, machine: web + time.Second}}
		for i := range requests {
			s.latencies = append(s.latencies, time.Duration(i+1)*time.Millisecond)
		}
		return s
	}
	w := workload{name: "GET 1 KB", atATime: 32}
	r := report{held: []held{{"http", "Outrider", memory{1 << 20, 2 << 20}, memory{3 << 20, 4 << 20}}}}
	with, without := []sample{round(90, time.Second), round(95, time.Second), round(99, time.Second)}, []sample{round(100, time.Second), round(100, time.Second), round(100, time.Second)}
	r.costs = []cost{compare("http", w, "Outrider", without, with)}
	r.rows = []row{
		summary("http", w, direct, []sample{round(400, 0)}),
		summary("http", w, "Outrider", []sample{round(100, time.Second), round(1, 0), round(200, time.Second)}),
		summary("http", w, envoyTwo, []sample{round(50, 0)}),
	}
	var got string
	for line := range strings.Lines(r.markdown()) {
		if strings.Contains(line, "Outrider") {
			got += line
		}
	}
	// 100 a second: a quarter of direct, twice Envoy. Of the CPU the median is 5
	// seconds for 1,000 requests.
	for _, want := range []string{"| http | GET 1 KB | 32 | Outrider | 100 | 0.25 | 2.00 | 51.00 | 100.00 | 5000 | 0 | 0 |", "| http | Outrider | 1 | 2 | 3 | 4 |",
		"Outrider with access logs in files, http, GET 1 KB, 32 at a time: 0.950 of the requests/s, 1.053 of the CPU of the sidecars."} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if bytes.Count([]byte(got), []byte("\n")) != 3 {
		t.Errorf("the rows of Outrider are\n%s", got)
	}
}
