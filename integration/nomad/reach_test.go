// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// forward relays what comes to one address to another, until the test ends, and
// returns where it listens. address is host:port, or a path.
func forward(t testing.TB, address, to string) string {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go relay(from, to)
		}
	}()
	return l.Addr().String()
}

func relay(from net.Conn, to string) {
	defer from.Close()
	onward, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer onward.Close()
	go func() {
		_, _ = io.Copy(onward, from)
		_ = onward.Close()
	}()
	_, _ = io.Copy(from, onward)
}

// testExec runs the example under the exec driver, whose sidecars reach Consul at
// the address that the job names, and measures what they use.
func testExec(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "cart", map[string]string{"shop": "allow"})
	_, port, _ := net.SplitHostPort(l.consul.Addr)
	began := time.Now()
	job := l.runWith(t, "exec.nomad.hcl", map[string]string{"consul": "http://" + realserver.HostAddress + ":" + port})
	shop := l.alloc(t, job, "shop")
	shop.answers(t, 9191, "hello from cart")
	t.Logf("from job to first call: %v", time.Since(began).Round(time.Millisecond))
	load := shop.load(t, 9191, pythonsQueue, 5*time.Millisecond)
	load.more(t, 1000)
	load.unharmed(t)
	for _, a := range []*alloc{shop, l.alloc(t, job, "cart")} {
		measure(t, a)
	}
}

// measure logs what an idle sidecar uses, and fails beyond the 25 MB that are
// promised.
func measure(t testing.TB, a *alloc) {
	t.Helper()
	task := "connect-proxy-" + a.TaskGroup
	pid := process(t, a, task)
	const idle = 10 * time.Second
	before := cpu(t, pid)
	time.Sleep(idle) // what is measured is a time in which nothing happens
	used := cpu(t, pid) - before
	rss := residentKiB(t, pid)
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Rss") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
	t.Logf("%s in its cgroup after 1,000 requests: %.1f MiB resident, %.2f %% of a CPU while idle", task, float64(rss)/1024, 100*used.Seconds()/idle.Seconds())
	t.Logf("%s holds %d connections to Consul", task, connections(t, pid, a.lab.consul.Addr))
	if rss > 25_000_000/1024 {
		t.Errorf("the sidecar has %d KiB resident", rss)
	}
	if events := a.task(t, task).Restarts; events != 0 {
		t.Errorf("the sidecar was restarted %d times", events)
	}
}

// process finds the process of a task.
func process(t testing.TB, a *alloc, task string) int {
	t.Helper()
	found := processes(t, a, task)
	if len(found) != 1 {
		t.Fatalf("task %s of %s has %d processes", task, a.ID, len(found))
	}
	return found[0]
}

// processes finds the processes of a task by the environment that Nomad gave it.
func processes(t testing.TB, a *alloc, task string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(env), "NOMAD_ALLOC_ID="+a.ID+"\x00") || !strings.Contains(string(env), "NOMAD_TASK_NAME="+task+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, pid)
	}
	return found
}

// connections counts the established connections in the network of a process to
// the port of an address.
func connections(t testing.TB, pid int, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", number)) && fields[3] == "01" {
			n++
		}
	}
	return n
}

func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func residentKiB(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatalf("process %d has no VmRSS", pid)
	return 0
}

// testSocket gives the host a well-known unix socket of Consul while a sidecar
// starts that could not use another way.
func testSocket(t *testing.T, l *lab) {
	if err := os.MkdirAll("/run/consul", 0o755); err != nil {
		t.Fatal(err)
	}
	forward(t, "/run/consul/http.sock", l.consul.Addr)
	// Whoever may connect may try: Consul still asks for a token.
	if err := os.Chmod("/run/consul/http.sock", 0o666); err != nil {
		t.Fatal(err)
	}
	l.intend(t, "pipe", map[string]string{"piper": "allow"})
	// As nobody it may not enter the host's network.
	plain := strings.Replace(rawExec(""), `driver = "raw_exec"`, "driver = \"raw_exec\"\n          user = \"nobody\"", 1)
	job := l.run(t, shape{"pipes", []group{
		{name: "pipe", says: "tune", sidecar: plain},
		{name: "piper", upstreams: map[string]int{"pipe": 5000}, sidecar: plain},
	}}.String())
	piper := l.alloc(t, job, "piper")
	piper.answers(t, 5000, "tune")
	if status := piper.status(t, "connect-proxy-piper"); status.Consul != "unix:///run/consul/http.sock" {
		t.Errorf("Consul is reached at %q", status.Consul)
	}
}

// testNoWay has a sidecar that can reach Consul in no way say so, and wait.
func testNoWay(t *testing.T, l *lab) {
	t.Parallel()
	job := l.run(t, shape{"island", []group{{name: "island", sidecar: sidecarTask("exec", "outrider", "", "sidecar")}}}.String())
	island := l.alloc(t, job, "island")
	island.says(t, "connect-proxy-island", "CONSUL_HTTP_ADDR", "client_addr", "raw_exec")
	if restarts := island.task(t, "connect-proxy-island").Restarts; restarts != 0 {
		t.Errorf("the sidecar was restarted %d times", restarts)
	}
}
