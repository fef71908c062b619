// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
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
		"a token that will end":    {func(w *ward) { w.survey.Token.Expires = w.now }, "Consul token", OK, "expires at 2026-11-21T11:00:00Z"},
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
	if Failed(found) || len(found) != 6 || w.finding(t, "Nomad agent").State != Skipped {
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
	asked := 0
	bounded := func(ctx context.Context) error {
		asked++
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > eachWithin {
			t.Errorf("question %d may take for ever", asked)
		}
		return errors.New("no answer")
	}
	w := healthy()
	Examine(t.Context(), Options{
		Consul: func(string) (Consul, error) { return deadlineConsul(bounded), nil }, Nomad: deadlineNomad{bounded, w.node},
		VaultDate: func(ctx context.Context) (time.Time, error) { return time.Time{}, bounded(ctx) }, Root: w.root, Now: func() time.Time { return w.now },
	})
	if asked != 4 { // Consul, Nomad, Consul at the address of Nomad, Vault
		t.Errorf("%d questions", asked)
	}
}

type deadlineConsul func(context.Context) error

func (d deadlineConsul) Survey(ctx context.Context) (*consul.Survey, error) { return nil, d(ctx) }

type deadlineNomad struct {
	bounded func(context.Context) error
	node    *jobs.Node
}

func (d deadlineNomad) Node(ctx context.Context) (*jobs.Node, error) {
	_ = d.bounded(ctx)
	return d.node, nil
}
