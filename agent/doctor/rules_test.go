// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/jobs"
)

func (w *ward) finding(t *testing.T, check string) Finding {
	t.Helper()
	for _, f := range w.examine(t) {
		if f.Check == check {
			return f
		}
	}
	t.Fatalf("no finding for %q", check)
	return Finding{}
}

func TestRulesThatAreEasyToMiss(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ill      func(*ward)
		check    string
		state    State
		evidence string
	}{
		"a mesh without a root":    {func(w *ward) { w.survey.Roots = 0 }, "Consul service mesh", Fail, "no root yet"},
		"a token that will end":    {func(w *ward) { w.survey.Token.Expires = w.now }, "Consul token", Warn, "expires at 2026-11-21T11:00:00Z"},
		"a Consul without a clock": {func(w *ward) { w.survey.Date = time.Time{} }, "clock of Consul", Skipped, "has not told its time"},
		"a clock that runs ahead":  {func(w *ward) { w.survey.Date = w.now.Add(time.Minute) }, "clock of Consul", Warn, "1m0s apart"},
		"no gRPC at all":           {func(w *ward) { delete(w.node.Attributes, "consul.grpc") }, "Consul in Nomad's eyes", Fail, "without a gRPC port"},
		"a folder named consul": {func(w *ward) {
			w.root["usr/local/bin/consul"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		}, "consul on Nomad's PATH", Fail, "no consul"},
		"a consul that only a relative PATH finds": {func(w *ward) {
			delete(w.root, "usr/local/bin/consul")
			w.root["relative/consul"] = &fstest.MapFile{Mode: 0o755}
		}, "consul on Nomad's PATH", Fail, "no consul"},
		"an agent that listens on IPv6": {func(w *ward) {
			w.root["proc/net/tcp6"] = w.root["proc/net/tcp"]
			delete(w.root, "proc/net/tcp")
		}, "consul on Nomad's PATH", OK, "/usr/local/bin/consul"},
		"another process on another port": {func(w *ward) {
			w.root["proc/net/tcp"] = &fstest.MapFile{Data: []byte("head\n 0: 00000000:1227 00000000:0000 0A 0:0 0:0 0 0 0 4242 1\n")}
		}, "consul on Nomad's PATH", Skipped, "nobody listens on port 4646"},
		"Consul on another port": {func(w *ward) {
			w.node.ConsulAddress, w.survey.Address, w.elsewhere = "127.0.0.1:9500", "http://127.0.0.1:9500", map[string]error{"10.0.0.7:9500": nil}
		}, "Consul from a bridged group", Warn, "Consul answers on 10.0.0.7:9500"},
		"a loopback as Nomad's address": {func(w *ward) {
			w.node.ConsulAddress, w.elsewhere = "127.0.0.1:8500", map[string]error{"127.0.0.1:8500": nil}
		}, "Consul from a bridged group", Warn, "loopback of the host only"},
		"a driver that is not healthy": {func(w *ward) { w.node.Drivers["exec"] = jobs.Driver{Detected: true, Description: "no cgroups"} }, "task drivers", OK, "raw_exec; not healthy: exec: no cgroups"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := healthy()
			tc.ill(w)
			if f := w.finding(t, tc.check); f.State != tc.state || !strings.Contains(f.Evidence, tc.evidence) {
				t.Errorf("finding %+v", f)
			}
		})
	}
}

func TestAServerOfNomadIsNotJudgedAsAClient(t *testing.T) {
	t.Parallel()
	w := healthy()
	w.node = &jobs.Node{Address: "http://127.0.0.1:4646", Version: "1.11.3"}
	found := w.examine(t)
	if Failed(found) || len(found) != 14 || w.finding(t, "Nomad agent").State != Skipped {
		t.Errorf("findings %+v", found)
	}
}

func TestAProcessThatIsHiddenIsSaidToBe(t *testing.T) {
	t.Parallel()
	w := healthy()
	delete(w.root, "proc/52/fd/9")
	w.root["proc/52/fd"] = &fstest.MapFile{Mode: fs.ModeDir}
	process, err := findAgent(denying{w.root}, w.node)
	if err == nil || !strings.Contains(err.Error(), "run this as root") {
		t.Errorf("process %+v, error %v", process, err)
	}
}

// denying is a file system that lets nobody look into the folders of files of
// processes.
type denying struct{ fstest.MapFS }

func (d denying) ReadDir(name string) ([]fs.DirEntry, error) {
	if strings.HasSuffix(name, "/fd") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return d.MapFS.ReadDir(name)
}

// A question that nobody answers must not keep the others waiting.
func TestEveryQuestionIsBounded(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	bounded := func(ctx context.Context) error {
		n := asked.Add(1)
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > eachWithin {
			t.Errorf("question %d may take for ever", n)
		}
		return errors.New("no answer")
	}
	w := healthy()
	w.cfg.Consul.Address = "consul.example"
	Examine(t.Context(), Options{
		Config: w.cfg,
		Consul: func(string) (Consul, error) { return deadlineConsul{bounded: bounded}, nil }, Nomad: deadlineNomad{bounded, w.node},
		Vault:      func() (Vault, error) { return deadlineVault(bounded), nil },
		Agent:      func(ctx context.Context) (*agent.Status, error) { return nil, bounded(ctx) },
		LookupHost: func(ctx context.Context, _ string) ([]string, error) { return nil, bounded(ctx) },
		Chains:     func(ctx context.Context) (string, error) { return "", bounded(ctx) },
		Root:       w.root, Now: func() time.Time { return w.now },
	})
	if n := asked.Load(); n != 7 { // Consul, Vault, Nomad, the agent, a name, the kernel, Consul at the address of Nomad
		t.Errorf("%d questions", n)
	}
}

// Everybody is asked at once: those who do not answer cost their time together.
func TestQuestionsAreAskedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mute := func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		w := healthy()
		w.cfg.Consul.Address = "consul.example"
		begun := time.Now()
		found := Examine(t.Context(), Options{
			Config: w.cfg,
			Consul: func(string) (Consul, error) { return deadlineConsul{bounded: mute}, nil }, Nomad: deadlineNomad{mute, nil},
			Vault:      func() (Vault, error) { return deadlineVault(mute), nil },
			Agent:      func(ctx context.Context) (*agent.Status, error) { return nil, mute(ctx) },
			LookupHost: func(ctx context.Context, _ string) ([]string, error) { return nil, mute(ctx) },
			Chains:     func(ctx context.Context) (string, error) { return "", mute(ctx) },
			Root:       w.root, Now: time.Now,
		})
		if took := time.Since(begun); took > eachWithin || !Failed(found) {
			t.Errorf("it took %s: %+v", took, found)
		}
	})
}

type deadlineConsul struct {
	Consul
	bounded func(context.Context) error
}

func (d deadlineConsul) Survey(ctx context.Context) (*consul.Survey, error) {
	return nil, d.bounded(ctx)
}

type deadlineVault func(context.Context) error

func (d deadlineVault) Survey(ctx context.Context, _ []vault.PKI) (*vault.Survey, error) {
	return nil, d(ctx)
}

type deadlineNomad struct {
	bounded func(context.Context) error
	node    *jobs.Node
}

func (d deadlineNomad) Node(ctx context.Context) (*jobs.Node, error) {
	if err := d.bounded(ctx); d.node == nil {
		return nil, err
	}
	return d.node, nil
}
