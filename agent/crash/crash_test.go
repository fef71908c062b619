// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestMain runs the tests, or is a process that ends by a fault: no code can catch
// what the map does.
func TestMain(m *testing.M) {
	dir := os.Getenv("CRASH_TEST_DIR")
	if dir == "" {
		m.Run() // its result becomes the exit code of the test program
		return
	}
	if _, err := Open(dir, hclog.NewNullLogger()); err != nil {
		panic(err)
	}
	nobodyCatchesThis()
}

func nobodyCatchesThis() {
	shared := map[int]int{}
	for {
		go func() {
			for n := range 1000 {
				shared[n] = n
			}
		}()
	}
}

func open(t *testing.T, dir string, log *bytes.Buffer) *Box {
	t.Helper()
	b, err := Open(dir, hclog.New(&hclog.LoggerOptions{Output: log}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// The tests of what a process does to its runtime are not parallel: there is one.

func TestDumpHoldsWhatIsKnownAndOnlyItsOwnerReadsIt(t *testing.T) { //nolint:paralleltest // there is one runtime
	b := open(t, filepath.Join(t.TempDir(), "made"), &bytes.Buffer{})
	known := Known{Version: "v1", Status: func(context.Context) any { return map[string]string{"Ready": "yes"} }, Failures: func() any { return []string{"denied"} }}
	path, err := b.Write(t.Context(), known, "panic", "boom", []byte("here it happened"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var d Dump
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.Version != "v1" || d.Cause != "panic" || d.Text != "boom" || d.PID != os.Getpid() || fmt.Sprint(d.Status) != "map[Ready:yes]" || fmt.Sprint(d.Failures) != "[denied]" {
		t.Errorf("dump %+v", d)
	}
	if !strings.HasPrefix(d.Goroutines, "here it happened") || !strings.Contains(d.Goroutines, "TestDumpHoldsWhatIsKnown") {
		t.Errorf("stacks %s", d.Goroutines)
	}
	for _, at := range []struct {
		path string
		mode fs.FileMode
	}{{path, 0o600}, {b.dir, fs.ModeDir | 0o700}} {
		if info, err := os.Stat(at.path); err != nil || info.Mode() != at.mode {
			t.Errorf("%s: %v, %v", at.path, info.Mode(), err)
		}
	}
}

func TestNewestFiveDumpsStay(t *testing.T) { //nolint:paralleltest // there is one runtime
	dir := t.TempDir()
	b := open(t, dir, &bytes.Buffer{})
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	b.now = func() time.Time { return at }
	for range 8 {
		at = at.Add(time.Second)
		if _, err := b.Write(t.Context(), Known{}, "error", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	got := b.names(dumpPrefix)
	if len(got) != keeps || got[0] != "crash-20261121T120004.000000000Z.json" || got[4] != "crash-20261121T120008.000000000Z.json" {
		t.Errorf("left: %v", got)
	}
}

func TestPartThatHangsOrPanicsDoesNotHoldUpTheDump(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		got := ask(t.Context(), "status", func(ctx context.Context) any {
			<-ctx.Done()
			<-time.After(time.Hour)
			return nil
		})
		if text, _ := got.(string); time.Since(begun) != askWithin || !strings.Contains(text, "lock") {
			t.Errorf("after %s: %v", time.Since(begun), got)
		}
		if text, _ := ask(t.Context(), "status", func(context.Context) any { panic("broken") }).(string); !strings.Contains(text, "broken") {
			t.Errorf("%q", text)
		}
		<-time.After(2 * time.Hour) // the one that hangs ends, and the bubble with it
	})
}

func TestDirectoryThatOthersMayWriteToIsNotUsed(t *testing.T) {
	t.Parallel()
	for _, mode := range []fs.FileMode{0o777, 0o770, 0o702} {
		dir := filepath.Join(t.TempDir(), "state")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		if b, err := Open(dir, hclog.NewNullLogger()); err == nil || b != nil || !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("%o: %v", mode, err)
		}
		if left := files(t, dir); left != nil {
			t.Errorf("%o: %v", mode, left)
		}
	}
}

func TestWithoutADirectoryNothingIsLeftAndNothingFails(t *testing.T) {
	t.Parallel()
	b, err := Open("", hclog.NewNullLogger())
	if b != nil || err != nil {
		t.Fatal(b, err)
	}
	if path, err := b.Write(t.Context(), Known{}, "panic", "", nil); path != "" || err != nil {
		t.Error(path, err)
	}
	b.Close()
}

func TestLinkIsNotFollowed(t *testing.T) { //nolint:paralleltest // there is one runtime
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, fmt.Sprintf("running-%d.txt", os.Getpid()))); err != nil {
		t.Fatal(err)
	}
	open(t, dir, &bytes.Buffer{}).Close()
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestFaultThatNobodyCatchesIsNamedAtTheNextStart(t *testing.T) { //nolint:paralleltest // there is one runtime
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "CRASH_TEST_DIR="+dir)
	out, err := child.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		t.Fatalf("the process ended with %v: %s", err, out)
	}
	if !strings.Contains(string(out), "nobodyCatchesThis") {
		t.Errorf("stderr does not show it: %s", out)
	}
	var log bytes.Buffer
	b := open(t, dir, &log)
	left := b.names(fatalPrefix)
	if len(left) != 1 || !strings.Contains(log.String(), left[0]) {
		t.Fatalf("left %v, log %s", files(t, dir), log.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, left[0]))
	if err != nil || !strings.Contains(string(text), "nobodyCatchesThis") {
		t.Errorf("%v: %s", err, text)
	}
	// It is named once.
	log.Reset()
	b.collect()
	if log.Len() != 0 {
		t.Errorf("log %s", log.String())
	}
}

func TestGoodEndLeavesNothing(t *testing.T) { //nolint:paralleltest // there is one runtime
	dir := t.TempDir()
	// One process that runs, and one that has ended, by the IDs in the names.
	for _, name := range []string{"running-1.txt", "running-99999999.txt", "other.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir, &bytes.Buffer{}).Close()
	if got := strings.Join(files(t, dir), " "); got != "other.txt running-1.txt" {
		t.Errorf("left: %s", got)
	}
}

func TestDirectoryIsThatOfTheUnitOrTheTask(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "NOMAD_TASK_DIR": "/t"}, "/var/lib/a"},
		{map[string]string{"NOMAD_TASK_DIR": "/t"}, "/t/.outrider"},
	} {
		if got := Directory(func(name string) string { return tc.env[name] }); got != tc.want {
			t.Errorf("%v: %s", tc.env, got)
		}
	}
}

func TestLinkOfSomebodyElseToADirectoryOfOursIsNotFollowed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // only root makes links of others
	}
	ours, link := t.TempDir(), filepath.Join(t.TempDir(), "outrider")
	if err := errors.Join(os.Chmod(ours, 0o700), os.Symlink(ours, link), os.Lchown(link, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	b, err := Open(link, hclog.NewNullLogger())
	if err == nil || b != nil || !strings.Contains(err.Error(), "link of user 12345") {
		t.Errorf("%v", err)
	}
	if err := Check(link); err == nil {
		t.Error("state would be kept there")
	}
	if left := files(t, ours); left != nil {
		t.Errorf("%v", left)
	}
}

func TestLinkOfOursMayStandForTheDirectory(t *testing.T) {
	t.Parallel()
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "outrider")
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(dir, link)); err != nil { // as systemd does for DynamicUser=
		t.Fatal(err)
	}
	if err := Check(link); err != nil {
		t.Error(err)
	}
}
