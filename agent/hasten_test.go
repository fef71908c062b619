// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func TestHasteWaitsForTheApplication(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	service := connect.Service{LocalAddress: "127.0.0.1", LocalPort: port}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if applicationListens(short, service) {
		t.Error("nobody listens")
	}
	later := make(chan bool)
	go func() { later <- applicationListens(t.Context(), service) }()
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !<-later {
		t.Error("the application listens by now")
	}
	path := filepath.Join(t.TempDir(), "app.sock")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	if !applicationListens(t.Context(), connect.Service{LocalSocketPath: path}) {
		t.Error("the application listens on a socket")
	}
}

func TestTheTokenOfACheckIsOneWordOfAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "si_token")
	if token, err := readToken(""); token != "" || err != nil {
		t.Errorf("no file: %q, %v", token, err)
	}
	if _, err := readToken(file); err == nil {
		t.Error("a missing file is no error")
	}
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if token, err := readToken(file); token != "secret" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
}
