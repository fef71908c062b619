// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/limits"
	"github.com/outrider-mesh/outrider/connect/proxy"
	"github.com/outrider-mesh/outrider/hcl"
)

// changing is a file system whose files change.
type changing struct {
	mu    sync.Mutex
	files fstest.MapFS
}

func (c *changing) set(name, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[name] = &fstest.MapFile{Data: []byte(text)}
}

// Open implements fs.FS.
func (c *changing) Open(name string) (fs.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.files.Open(name)
}

// cgroupOf is a system whose process may use so many bytes.
func cgroupOf(t *testing.T, bytes string) (*changing, limits.Memory) {
	t.Helper()
	root := &changing{files: fstest.MapFS{}}
	root.set("proc/self/cgroup", "0::/unit\n")
	root.set("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	root.set("sys/fs/cgroup/unit/memory.max", bytes)
	memory, err := limits.ReadMemory(root)
	if err != nil {
		t.Fatal(err)
	}
	return root, memory
}

func TestConnectionsGetAPartOfWhatTheProcessHas(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	root, memory := cgroupOf(t, "536870912")
	for name, tc := range map[string]struct {
		room       Room
		configured int
		want       int64
	}{
		"nothing is known":                 {Room{}, 0, 0},
		"configured, and nothing is known": {Room{}, 300, 300 * mb},
		"the limit of the cgroup":          {Room{root: root, memory: memory}, 0, 536870912 / 5 * 4 / 4 * 3},
		"configured":                       {Room{root: root, memory: memory}, 100, 100 * mb},
		"GOMEMLIMIT":                       {Room{root: root, memory: memory, soft: 40 * mb}, 0, 30 * mb},
		"no limit on a machine":            {Room{root: root, machine: 4096 * mb}, 0, 1024 * mb},
		"nothing can be read":              {Room{root: root}, 0, 1 << 30},
	} {
		if got := tc.room.forConnections(tc.configured); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

func TestTaskOfASchedulerCountsWhereNoCgroupIsSmaller(t *testing.T) {
	const task = 10 << 20 // less than any machine that runs this test
	r, err := MeasureRoom(task)
	if err != nil || r.memory.Bytes != task || r.memory.From != "NOMAD_MEMORY_LIMIT" || r.descriptors == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if got := r.SoftMemory(); got != r.memory.Soft() && r.soft == 0 {
		t.Errorf("a soft limit of %d", got)
	}
}

// limited is an agent that was given a room, with what it says.
func limited(t *testing.T, room Room, text string) (*Agent, *lockedBuffer) {
	t.Helper()
	cfg, err := hcl.Parse("test.hcl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	opts := Options{Config: cfg, Room: room, Logger: hclog.New(&hclog.LoggerOptions{Output: log})}
	return &Agent{opts: opts, config: cfg, log: opts.Logger, memory: newMemory(opts)}, log
}

const oneService = "service {\n name = \"web\"\n port = 80\n connect {\n sidecar_service {}\n}\n}\n"

func TestNothingNewIsAdmittedWhileTheCgroupIsNearlyFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, memory := cgroupOf(t, "1000000")
		a, log := limited(t, Room{root: root, memory: memory, descriptors: 1 << 20}, oneService)
		p := proxy.New(a.proxyLimits(), hclog.NewNullLogger())
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = p.Run(ctx) })
		all.Go(func() { _ = a.watchRoom(ctx) })
		for _, step := range []struct {
			used    string
			pressed bool
		}{{"100000", false}, {"930000", true}, {"900000", true}, {"870000", false}, {"910000", false}, {"999999", true}, {"1", false}} {
			root.set("sys/fs/cgroup/unit/memory.current", step.used)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := p.Status(ctx).Memory.Pressed; got != step.pressed {
				t.Errorf("at %s of 1000000: pressed %t", step.used, got)
			}
		}
		cancel()
		all.Wait()
		text := log.String()
		if n := strings.Count(text, "nearly full"); n != 2 || !strings.Contains(text, "MemoryMax") || strings.Count(text, "there is memory again") != 2 {
			t.Errorf("it says, %d times that it is full:\n%s", n, text)
		}
	})
}

func TestLimitsThatCannotBeKeptAreWarnedOf(t *testing.T) {
	t.Parallel()
	root, memory := cgroupOf(t, "536870912")
	for name, tc := range map[string]struct {
		descriptors  int
		config, want string
	}{
		"enough files":       {65536, "", ""},
		"too few files":      {1024, "", "LimitNOFILE"},
		"few connections":    {1024, "limits {\n inbound_connections = 400\n}\n", ""},
		"more than there is": {65536, "limits {\n memory_mb = 500\n}\n", "limits { memory_mb }"},
	} {
		a, log := limited(t, Room{root: root, memory: memory, descriptors: tc.descriptors}, tc.config+oneService)
		a.opts.Room.describe(a.log, a.opts.Config.Limits.MemoryMB, a.mostConnections())
		warned := strings.Contains(log.String(), "[WARN]")
		if warned != (tc.want != "") || !strings.Contains(log.String(), tc.want) {
			t.Errorf("%s: want %q, it says:\n%s", name, tc.want, log)
		}
	}
}

func TestConfiguredConnectionsReachTheProxies(t *testing.T) {
	t.Parallel()
	a, _ := limited(t, Room{}, "limits {\n inbound_connections = 7\n outbound_connections = 8\n}\n"+oneService)
	if l := a.proxyLimits(); l.Inbound != 7 || l.Outbound != 8 || l.Memory != nil {
		t.Errorf("%+v", l)
	}
	a, _ = limited(t, Room{}, oneService)
	if l, want := a.proxyLimits(), proxy.DefaultLimits(); l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
}
