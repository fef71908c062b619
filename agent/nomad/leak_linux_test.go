// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"net"
	"os"
	"testing"
)

// A sidecar lives for months, and while Consul is down it dials again and again.
func TestTenThousandControlConnectionsLeaveNothingBehind(t *testing.T) {
	h, port := pair(t)
	entries := func(dir string) int {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	dial := func(times int) {
		for range times {
			// Who is heard to the end has closed its side.
			if got, err := heard(h.Dial(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", port))); err != nil || got != "host" {
				t.Fatalf("reached %q, %v", got, err)
			}
			if conn, err := h.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil {
				_ = conn.Close()
				t.Fatal("somebody listens on port 1")
			}
		}
	}
	dial(100)
	files, threads := entries("/proc/self/fd"), entries("/proc/self/task")
	dial(5000)
	if now := entries("/proc/self/fd"); now > files+5 {
		t.Errorf("%d descriptors are open, %d were before", now, files)
	}
	if now := entries("/proc/self/task"); now > threads+8 {
		t.Errorf("%d threads, %d were before", now, threads)
	}
}
