// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A disk is a sink that takes what it has room for.
type disk struct {
	mu     sync.Mutex
	got    bytes.Buffer
	room   int // bytes; negative means no end
	writes int
	opened int
	closed int
	broken error // of opening
}

func (d *disk) open() (sink, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened++
	return d, d.broken
}

func (d *disk) write(_ context.Context, p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	n := len(p)
	if d.room >= 0 {
		n = min(n, d.room)
		d.room -= n
	}
	d.got.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (d *disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed++
	return nil
}

func (d *disk) set(room int, broken error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.room, d.broken = room, broken
}

func (d *disk) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.got.String()
}

// A text is a line that has been made.
type text string

func (x text) Append(dst []byte) []byte { return append(dst, x...) }
func (x text) Size() int                { return len(x) }
func (text) release()                   {}

// A mine faults when it is touched.
type mine struct{ text }

func (mine) Append([]byte) []byte { panic("boom") }

// A diary is what the agent's own log says.
type diary struct {
	mu   sync.Mutex
	text strings.Builder
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}

func journal() (hclog.Logger, *diary) {
	var said diary
	return hclog.New(&hclog.LoggerOptions{Output: &said, DisableTime: true}), &said
}

// running starts an output over d inside a bubble of synctest; end ends it.
func running(t *testing.T, d *disk) (o *output, said *diary, end func()) {
	t.Helper()
	log, said := journal()
	o = newOutput("disk", d.open, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.run(ctx)
	}()
	synctest.Wait()
	return o, said, func() {
		cancel()
		<-done
	}
}

func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestLinesAreWrittenWithinASecondInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: -1}
		o, _, end := running(t, d)
		defer end()
		want := ""
		for i := range 100 {
			line := fmt.Sprintln("line", i)
			o.add(text(line))
			want += line
		}
		later(flushAfter - time.Millisecond)
		if d.text() != "" {
			t.Errorf("written early: %q", d.text())
		}
		later(time.Millisecond)
		if d.text() != want || d.writes != 1 {
			t.Errorf("%d writes: %q", d.writes, d.text())
		}
		o.add(text("more\n"))
		later(flushAfter)
		if d.text() != want+"more\n" {
			t.Errorf("got %q", d.text())
		}
	})
}

func TestMuchIsWrittenAtOnceAndTheRestInTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: -1}
		o, _, end := running(t, d)
		much := strings.Repeat("x", flushAt-1) + "\n"
		o.add(text(much))
		synctest.Wait()
		if d.text() != much {
			t.Errorf("%d bytes were written without waiting", len(d.text()))
		}
		o.add(text("last\n"))
		end()
		if d.text() != much+"last\n" || d.closed != 1 {
			t.Errorf("%d bytes in the end, closed %d times", len(d.text()), d.closed)
		}
	})
}

func TestAFullDiskDropsAndSaysSoAndGoesOnWithWholeLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: 8}
		o, said, end := running(t, d)
		line := strings.Repeat("x", 99) + "\n"
		const added = 2*(maxPending/100) + 10
		for range added / 2 {
			o.add(text(line)) // never blocks
		}
		later(5 * time.Minute)
		for range added / 2 {
			o.add(text(line))
		}
		if got := d.text(); got != line[:8] {
			t.Errorf("written %q", got)
		}
		dropped := o.droppedLines()
		// 1 s, 2 s, 4 s … and once a minute then.
		if n := strings.Count(said.String(), "no space left"); n < 8 || n > 11 {
			t.Errorf("said %d times:\n%s", n, said)
		}
		d.set(-1, nil)
		later(2 * time.Minute)
		got := d.text()
		if lines := strings.Count(got, line); lines*len(line) != len(got) || dropped == 0 || uint64(lines)+dropped != added {
			t.Errorf("%d whole lines in %d bytes, %d dropped", lines, len(got), dropped)
		}
		if !strings.Contains(said.String(), fmt.Sprintf("access log is written again: to=disk dropped=%d", dropped)) {
			t.Errorf("recovery is not told: %s", said)
		}
		end()
	})
}

func TestLinesThatComeTooFastAreCountedAndToldOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: -1}
		o, said, end := running(t, d)
		defer end()
		flood := func() {
			d.mu.Lock() // nothing is written meanwhile
			for range 3 * maxPending / 1000 {
				o.add(text(strings.Repeat("x", 999) + "\n"))
			}
			d.mu.Unlock()
			later(flushAfter)
		}
		for range 10 {
			flood()
		}
		if n := strings.Count(said.String(), "were dropped"); n != 1 {
			t.Errorf("said %d times: %s", n, said)
		}
		later(time.Minute)
		flood()
		if n := strings.Count(said.String(), "were dropped"); n != 2 || o.droppedLines() == 0 {
			t.Errorf("said %d times, %d dropped: %s", n, o.droppedLines(), said)
		}
	})
}

func TestALineThatFaultsCostsItselfOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: -1}
		o, said, end := running(t, d)
		defer end()
		for range 3 {
			o.add(text("before\n"))
			o.add(mine{})
			o.add(text("after\n"))
		}
		later(flushAfter)
		if want := strings.Repeat("before\nafter\n", 3); d.text() != want {
			t.Errorf("got %q", d.text())
		}
		if n := strings.Count(said.String(), "boom"); n != 1 || o.droppedLines() != 3 || strings.Contains(said.String(), "faster") {
			t.Errorf("said %d times, %d dropped: %s", n, o.droppedLines(), said)
		}
	})
}

func TestWhatCannotBeOpenedIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: -1, broken: syscall.EACCES}
		o, said, end := running(t, d)
		defer end()
		if !strings.Contains(said.String(), "permission denied") {
			t.Errorf("not told at once: %s", said)
		}
		o.add(text("kept\n"))
		later(10 * time.Second)
		d.set(-1, nil)
		later(10 * time.Second)
		if d.text() != "kept\n" {
			t.Errorf("got %q: %s", d.text(), said)
		}
	})
}

func TestReopenEndsTheOldFileWithAWholeLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: 3}
		o, _, end := running(t, d)
		defer end()
		o.add(text("first\nsecond\n"))
		later(flushAfter)
		d.set(0, nil)
		signal(o.reopen)
		synctest.Wait()
		if d.opened != 2 || d.closed != 1 {
			t.Fatalf("opened %d times, closed %d times", d.opened, d.closed)
		}
		d.set(-1, nil)
		later(5 * time.Second)
		// The rest of the torn line would be a line of its own in the new file.
		if d.text() != "firsecond\n" {
			t.Errorf("got %q", d.text())
		}
	})
}

func TestTheEndWaitsForNoBrokenDisk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{room: 0}
		o, said, end := running(t, d)
		o.add(text("a\n"))
		o.add(text("b\n"))
		began := time.Now()
		end()
		if took := time.Since(began); took > farewell {
			t.Errorf("it took %v", took)
		}
		if !strings.Contains(said.String(), "the last lines were not written: to=disk lines=2") {
			t.Errorf("said %s", said)
		}
	})
}
