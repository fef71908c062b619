// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// taskMemory is what the example jobs give to a sidecar, in bytes.
const taskMemory = 32 << 20

// unread has the kernel forget a file that it keeps in memory, so that it counts
// for whoever reads it next.
func unread(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	// What is not on the disk yet stays in memory.
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	const dontNeed = 4 // POSIX_FADV_DONTNEED, of the whole file (posix_fadvise(2))
	if _, _, failed := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); failed != 0 {
		t.Fatalf("forget what memory keeps of %s: %v", path, failed)
	}
}

// askAtOnce sends requests of several clients, each on a connection of its own,
// until so many have been answered, and returns how many were, and how many were
// refused besides.
func (m *mesh) askAtOnce(t *testing.T, clients int, answers int64) (got, not int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var answered, refused atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			client := m.connection()
			defer client.CloseIdleConnections()
			for answered.Load() < answers && ctx.Err() == nil {
				if get(ctx, client) {
					answered.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	all.Wait()
	return answered.Load(), refused.Load()
}

// get reports whether a request was answered.
func get(ctx context.Context, client *http.Transport) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api/", nil)
	if err != nil {
		return false
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		return false // refused as a connection, before TLS
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return err == nil && resp.StatusCode == http.StatusOK
}

// A process's cgroup pays for the pages of its program, unless another one has read
// them before. With too little left for them, the kernel takes away what runs next,
// and reads it from disk again, instead of anything getting done.
func TestProgramThatCountsForItsOwnMemoryIsNotReadAgainAndAgain(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 1024))
	}))
	t.Cleanup(app.Close)
	unread(t, binary)
	m := newMesh(t, taskMemory, "http", app.Listener.Addr())
	if held := m.cgroup.files(t); held < 10<<20 {
		t.Fatalf("the program counts for others: %d bytes of files are in its cgroup", held)
	}
	for _, load := range []struct {
		clients    int
		want, most int64 // answers, and pages read from disk; what is refused reads some too
	}{{64, 2000, 2000}, {200, 500, 20_000}} {
		before := m.cgroup.readAgain(t)
		answered, refused := m.askAtOnce(t, load.clients, load.want)
		again := m.cgroup.readAgain(t) - before
		t.Logf("%d clients: %d answers, %d refused, %d times a page was read from disk: %s", load.clients, answered, refused, again, m.cgroup.use(t))
		if answered < load.want || again > load.most {
			t.Errorf("with %d clients, %d of %d requests were answered in %v, and a page was read from disk %d times", load.clients, answered, load.want, patience, again)
		}
		m.alive(t)
	}
}
