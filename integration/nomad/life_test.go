// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
)

// testUpstreamChange gives a running job one upstream more, and takes one away.
func testUpstreamChange(t *testing.T, l *lab) {
	t.Parallel()
	for _, name := range []string{"news", "weather"} {
		l.intend(t, name, map[string]string{"portal": "allow"})
	}
	l.run(t, shape{"sources", []group{{name: "news", says: "news"}, {name: "weather", says: "weather"}}}.String())
	portal := func(upstreams map[string]int) string {
		return shape{"portal", []group{{name: "portal", upstreams: upstreams}}}.String()
	}
	job := l.run(t, portal(map[string]int{"news": 5000}))
	before := l.alloc(t, job, "portal")
	before.answers(t, 5000, "news")
	process := before.task(t, "connect-proxy-portal").StartedAt

	job = l.run(t, portal(map[string]int{"news": 5000, "weather": 5001}))
	before.answers(t, 5001, "weather")
	after := l.alloc(t, job, "portal")
	if after.ID != before.ID || !after.task(t, "connect-proxy-portal").StartedAt.Equal(process) {
		t.Errorf("the update replaced allocation %s by %s, or restarted its sidecar", before.ID, after.ID)
	}
	after.answers(t, 5000, "news")

	l.run(t, portal(map[string]int{"weather": 5001}))
	after.refuses(t, 5000)
	after.answers(t, 5001, "weather")
}

// testRestarts restarts the application, and then the sidecar.
func testRestarts(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "clock", map[string]string{"diary": "allow"})
	job := l.run(t, shape{"restarts", []group{
		{name: "clock", says: "tick"},
		{name: "diary", upstreams: map[string]int{"clock": 5000}},
	}}.String())
	diary, clock := l.alloc(t, job, "diary"), l.alloc(t, job, "clock")
	diary.answers(t, 5000, "tick")
	for _, restart := range []struct {
		alloc *alloc
		task  string
	}{
		{clock, "app"}, {diary, "app"}, {clock, "connect-proxy-clock"}, {diary, "connect-proxy-diary"},
	} {
		restart.alloc.restart(t, restart.task)
		diary.answers(t, 5000, "tick")
	}
}

// pythonsQueue is how many clients may ask an application that is Python's
// http.server: its accept queue holds 6 connections, of which Consul's probe is
// one. The kernel drops what comes beyond, and who was dropped tries again after 1,
// 3 and 7 seconds, which is later than a probe may be.
const pythonsQueue = 4

// load asks a port of an allocation again and again, on connections that are
// kept.
type load struct {
	stop   context.CancelFunc
	all    sync.WaitGroup
	count  atomic.Int64
	mu     sync.Mutex
	failed []string
	bodies map[string]int
	slow   time.Duration // of the slowest answer
}

func (a *alloc) load(t testing.TB, port, clients int, gap time.Duration) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel, bodies: make(map[string]int)}
	transport := &http.Transport{DialContext: a.dial, MaxIdleConnsPerHost: clients}
	client := &http.Client{Transport: transport, Timeout: patience}
	for range clients {
		l.all.Go(func() {
			for ctx.Err() == nil {
				l.ask(ctx, client, port)
				select {
				case <-ctx.Done():
				case <-time.After(gap):
				}
			}
		})
	}
	t.Cleanup(func() {
		l.end()
		transport.CloseIdleConnections()
	})
	return l
}

func (l *load) ask(ctx context.Context, client *http.Client, port int) {
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		panic(err) // the URL is a constant but for its port
	}
	began := time.Now()
	answer, err := client.Do(request)
	var body string
	if err == nil {
		body, err = read(answer)
	}
	took := time.Since(began).Round(time.Millisecond)
	l.count.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = max(l.slow, took)
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s after %v: %v", began.Format("15:04:05.000"), took, err))
		return
	}
	l.bodies[body]++
}

// more waits for n further answers.
func (l *load) more(t testing.TB, n int64) {
	t.Helper()
	want := l.count.Load() + n
	until(t, fmt.Sprintf("%d further answers", n), func() error {
		if have := l.count.Load(); have < want {
			return fmt.Errorf("%d are missing", want-have)
		}
		return nil
	})
}

func (l *load) end() {
	l.stop()
	l.all.Wait()
}

// unharmed ends the load and fails the test if one request failed.
func (l *load) unharmed(t testing.TB) {
	t.Helper()
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d requests, %d failed, the slowest took %v, answers: %v", l.count.Load(), len(l.failed), l.slow, l.bodies)
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(l.failed), l.count.Load(), l.failed[:min(5, len(l.failed))])
	}
}

// since forgets which answers came so far, and returns those that come until
// the function is called that it returns.
func (l *load) since() func() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies = make(map[string]int)
	return func() map[string]int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return maps.Clone(l.bodies)
	}
}

// testStop stops one of two jobs that are the same service, under load.
func testStop(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "stock", map[string]string{"till": "allow"})
	l.configEntry(t, "Kind = \"service-defaults\"\nName = \"stock\"\nProtocol = \"http\"\n")
	// As the documentation asks of a group: callers hear of the end before it.
	more := "shutdown_delay = \"2s\""
	stock := func(says string) string {
		return shape{"stock-" + says, []group{{name: "stock", says: says, more: more}}}.String()
	}
	l.run(t, stock("a"))
	b := l.run(t, stock("b"))
	till := l.alloc(t, l.run(t, shape{"till", []group{{name: "till", upstreams: map[string]int{"stock": 5000}}}}.String()), "till")
	for _, says := range []string{"a", "b"} {
		till.answers(t, 5000, says)
	}
	load := till.load(t, 5000, 20, 10*time.Millisecond)
	load.more(t, 500)
	dying := l.alloc(t, b, "stock")
	if _, _, err := l.api.Jobs().Deregister(*b.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the job has ended", func() error {
		info, _, err := l.api.Allocations().Info(dying.ID, nil)
		if err == nil && info.ClientStatus != "complete" {
			err = fmt.Errorf("it is %s", info.ClientStatus)
		}
		return err
	})
	dying.endedWell(t, "connect-proxy-stock")
	load.more(t, 500)
	load.unharmed(t)
	if load.bodies["a"] == 0 || load.bodies["b"] == 0 {
		t.Errorf("both instances should have answered: %v", load.bodies)
	}
}

// testLastCall stops a job whose application makes a call when it is told to end:
// its sidecar is there until it has, and then ends by itself within the time that
// Nomad gives it.
func testLastCall(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "journal", map[string]string{"author": "allow"})
	l.run(t, shape{"journal", []group{{name: "journal", says: "noted"}}}.String())
	job := l.run(t, shape{"author", []group{{name: "author", says: "words", upstreams: map[string]int{"journal": 5000}, last: "http://127.0.0.1:5000/"}}}.String())
	author := l.alloc(t, job, "author")
	author.answers(t, 9090, "words") // before, it may not yet hear that it is to end
	author.answers(t, 5000, "noted")
	if _, _, err := l.api.Jobs().Deregister(*job.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the job has ended", func() error {
		info, _, err := l.api.Allocations().Info(author.ID, nil)
		if err == nil && info.ClientStatus != "complete" {
			err = fmt.Errorf("it is %s", info.ClientStatus)
		}
		return err
	})
	if text := author.stdout(t, "app"); !strings.Contains(text, "last call: noted") {
		t.Errorf("the application wrote %q", text)
	}
	author.endedWell(t, "connect-proxy-author")
}

// endedWell checks that a task was not killed.
func (a *alloc) endedWell(t testing.TB, task string) {
	t.Helper()
	for _, event := range a.task(t, task).Events {
		if event.Type == api.TaskTerminated {
			if event.ExitCode != 0 || event.Signal != 0 {
				t.Errorf("%s ended with code %d, signal %d", task, event.ExitCode, event.Signal)
			}
			return
		}
	}
	t.Errorf("%s has not ended", task)
}

// testClientRestart restarts Nomad's client under running allocations. It is not
// parallel: others would see their allocations wait for the client.
func testClientRestart(t *testing.T, l *lab) {
	l.intend(t, "rock", map[string]string{"boat": "allow"})
	job := l.run(t, shape{"steady", []group{
		{name: "rock", says: "rock"},
		{name: "boat", upstreams: map[string]int{"rock": 5000}},
	}}.String())
	boat := l.alloc(t, job, "boat")
	boat.answers(t, 5000, "rock")
	load := boat.load(t, 5000, 4, 10*time.Millisecond)
	l.restart(t)
	load.more(t, 200)
	load.unharmed(t)
	again := l.alloc(t, job, "boat")
	if again.ID != boat.ID {
		t.Errorf("the restart replaced allocation %s by %s", boat.ID, again.ID)
	}
	// What Nomad says to the task still reaches it.
	again.restart(t, "connect-proxy-boat")
	again.answers(t, 5000, "rock")
}

// restart restarts Nomad's client once it has taken down the networks of all
// allocations that end. One that is restarted before leaves their port mappings
// behind, and a later allocation that is given one of these ports is never reached.
func (l *lab) restart(t testing.TB, env ...string) {
	t.Helper()
	until(t, "no allocation is ending", func() error {
		networks, err := os.ReadDir("/run/netns")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, network := range networks {
			alloc, _, err := l.api.Allocations().Info(network.Name(), nil)
			if err != nil {
				return err
			}
			job, _, err := l.api.Jobs().Info(alloc.JobID, nil)
			if err != nil {
				return err
			}
			if *job.Stop || alloc.DesiredStatus != api.AllocDesiredStatusRun {
				return fmt.Errorf("%s of job %s is", alloc.ID, *job.ID)
			}
		}
		return nil
	})
	l.nomad.Restart(t, env...)
}

// seen is how often an answer has come.
func (l *load) seen(body string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bodies[body]
}
