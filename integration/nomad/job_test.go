// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"

	"github.com/outrider-mesh/outrider/agent"
)

// run registers a job, which is stopped with the test.
func (l *lab) run(t testing.TB, source string) *api.Job {
	t.Helper()
	job, err := l.api.Jobs().ParseHCL(source, true)
	if err != nil {
		t.Fatalf("parse the job: %v:\n%s", err, source)
	}
	return l.keep(t, job)
}

// example is the source of one of the examples that users read.
func example(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "jobs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// alloc is one allocation of a job.
type alloc struct {
	lab *lab
	*api.Allocation
}

// alloc waits for the running allocation of a group, the only one or the latest.
func (l *lab) alloc(t testing.TB, job *api.Job, group string) *alloc {
	t.Helper()
	return l.allocs(t, job, group, 1)[0]
}

// allocs waits until n allocations of a group run, with all their tasks, and
// returns them, the latest first.
func (l *lab) allocs(t testing.TB, job *api.Job, group string, n int) []*alloc {
	t.Helper()
	var found []*alloc
	until(t, fmt.Sprintf("job %s runs %d allocations of group %s", *job.ID, n, group), func() error {
		found = nil
		stubs, _, err := l.api.Jobs().Allocations(*job.ID, false, nil)
		if err != nil {
			return err
		}
		for _, stub := range stubs {
			if stub.TaskGroup != group || stub.DesiredStatus != "run" || stub.ClientStatus != "running" {
				continue
			}
			for name, state := range stub.TaskStates {
				if state.State != "running" {
					return fmt.Errorf("task %s of %s is %s", name, stub.ID, state.State)
				}
			}
			a, _, err := l.api.Allocations().Info(stub.ID, nil)
			if err != nil {
				return err
			}
			found = append(found, &alloc{l, a})
		}
		if len(found) != n {
			return fmt.Errorf("there are %d of %d allocations", len(found), len(stubs))
		}
		return nil
	})
	return found
}

// allocation is one of which only the ID is known.
func allocation(id string) *api.Allocation { return &api.Allocation{ID: id} }

// dir is the directory of a task, as the host sees it.
func (a *alloc) dir(task string) string {
	return filepath.Join(a.lab.nomad.AllocDir(), a.ID, task)
}

// socket is the address where the sidecar in a task answers root.
func (a *alloc) socket(task string) string {
	return "unix://" + filepath.Join(a.dir(task), "secrets", "outrider.sock")
}

// stderr is what a task has written to stderr so far.
func (a *alloc) stderr(t testing.TB, task string) string { return a.output(t, task, "stderr") }

func (a *alloc) stdout(t testing.TB, task string) string { return a.output(t, task, "stdout") }

func (a *alloc) output(t testing.TB, task, stream string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(a.lab.nomad.AllocDir(), a.ID, "alloc", "logs", task+"."+stream+".*"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// dial connects from within the network namespace of the allocation.
func (a *alloc) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := within("/run/netns/"+a.ID, func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// within runs f in a network namespace. It must not start goroutines that care.
// The thread goes back: if it ended instead, so would the servers that it has
// started, which die with their parent.
func within(namespace string, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open our own network namespace: %w", err)
	}
	defer unix.Close(home)
	there, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", namespace, err)
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", namespace, err)
	}
	defer func() {
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("leave %s: %v", namespace, err))
		}
	}()
	return f()
}

// get asks a port of the allocation's loopback, on a connection of its own.
func (a *alloc) get(ctx context.Context, port int) (status int, body string, err error) {
	return a.ask(ctx, fmt.Sprintf("127.0.0.1:%d", port))
}

// ask asks an address from within the network of the allocation, on a connection
// of its own.
func (a *alloc) ask(ctx context.Context, address string) (status int, body string, err error) {
	client := &http.Client{Transport: &http.Transport{DialContext: a.dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	body, err = read(answer)
	if answer.StatusCode != http.StatusOK {
		return answer.StatusCode, body, nil
	}
	return answer.StatusCode, body, err
}

// read is the body of an answer; of one other than 200, an error.
func read(answer *http.Response) (string, error) {
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s, %s: %s", answer.Status, answer.Header.Get("x-outrider-reason"), text)
	}
	return strings.TrimSpace(string(text)), err
}

// answers waits until a port of the allocation's loopback answers with text.
func (a *alloc) answers(t testing.TB, port int, want string) {
	t.Helper()
	until(t, fmt.Sprintf("%s on port %d", want, port), func() error {
		_, body, err := a.get(t.Context(), port)
		if err == nil && body != want {
			err = fmt.Errorf("the answer is %q", body)
		}
		return err
	})
}

// refuses waits until a port of the allocation's loopback answers no more.
func (a *alloc) refuses(t testing.TB, port int) {
	t.Helper()
	until(t, fmt.Sprintf("no answer on port %d", port), func() error {
		status, body, err := a.get(t.Context(), port)
		if err == nil && status == http.StatusOK {
			return fmt.Errorf("%d: %q", status, body)
		}
		return nil
	})
}

// restart restarts one task, and waits until it runs again.
func (a *alloc) restart(t testing.TB, task string) {
	t.Helper()
	before := a.task(t, task)
	if err := a.lab.api.Allocations().Restart(a.Allocation, task, nil); err != nil {
		t.Fatalf("restart %s: %v", task, err)
	}
	until(t, task+" runs again", func() error {
		now := a.task(t, task)
		if now.State != "running" || !now.StartedAt.After(before.StartedAt) {
			return fmt.Errorf("it is %s, started at %v", now.State, now.StartedAt)
		}
		return nil
	})
}

func (a *alloc) task(t testing.TB, name string) *api.TaskState {
	t.Helper()
	info, _, err := a.lab.api.Allocations().Info(a.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := info.TaskStates[name]
	if state == nil {
		t.Fatalf("allocation %s has no task %s", a.ID, name)
	}
	return state
}

// explain logs what happened to the allocations of a job.
func (l *lab) explain(t testing.TB, job string) {
	t.Helper()
	stubs, _, err := l.api.Jobs().Allocations(job, true, nil)
	if err != nil {
		t.Logf("list the allocations of %s: %v", job, err)
		return
	}
	for _, stub := range stubs {
		a := &alloc{l, allocation(stub.ID)}
		for task, state := range stub.TaskStates {
			t.Logf("%s %s %s: task %s is %s", job, stub.ID, stub.ClientStatus, task, state.State)
			for _, event := range state.Events {
				t.Logf("    %s", event.DisplayMessage)
			}
			t.Logf("stdout:\n%s\nstderr:\n%s", last(a.stdout(t, task)), last(a.stderr(t, task)))
			if strings.HasPrefix(task, "connect-proxy-") {
				stdout, stderr, _ := l.outrider(t, "", "status", "-admin", a.socket(task))
				failures, _, _ := l.outrider(t, "", "status", "-failures", "-v", "-admin", a.socket(task))
				t.Logf("status:\n%s%s%s", stdout, stderr, last(failures))
			}
		}
	}
}

// last is the end of a log.
func last(text string) string {
	const most = 8 << 10
	return text[max(0, len(text)-most):]
}

// runWith runs one of the examples with values for its variables.
func (l *lab) runWith(t testing.TB, name string, variables map[string]string) *api.Job {
	t.Helper()
	var values strings.Builder
	for name, value := range variables {
		fmt.Fprintf(&values, "%s = %q\n", name, value)
	}
	job, err := l.api.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: example(t, name), Variables: values.String(), Canonicalize: true})
	if err != nil {
		t.Fatalf("parse %s: %v", name, err)
	}
	return l.keep(t, job)
}

// keep registers a job, which is stopped with the test.
func (l *lab) keep(t testing.TB, job *api.Job) *api.Job {
	t.Helper()
	if _, _, err := l.api.Jobs().Register(job, nil); err != nil {
		t.Fatalf("register job %s: %v", *job.ID, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.explain(t, *job.ID)
		}
		_, _, _ = l.api.Jobs().Deregister(*job.ID, false, nil)
	})
	return job
}

// status asks the sidecar in a task, on the socket that only root may use.
func (a *alloc) status(t testing.TB, task string) agent.Status {
	t.Helper()
	var status agent.Status
	until(t, "the status of "+task, func() error {
		stdout, stderr, ok := a.lab.outrider(t, "", "status", "-json", "-admin", a.socket(task))
		if !ok {
			return fmt.Errorf("%s", stderr)
		}
		return json.Unmarshal([]byte(stdout), &status)
	})
	return status
}
