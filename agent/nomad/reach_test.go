// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWayToConsulIsChosenInOrder(t *testing.T) {
	no := errors.New("operation not permitted")
	good := []Socket{{Path: "/opt/bad", Err: errors.New("/opt/bad is not trusted")}, {Path: "/run/consul/http.sock"}}
	tls := Server{Address: "10.0.0.1:8501", SSL: true, CAFile: "/ca"}
	local := Server{Address: "127.0.0.1:8500"}
	for name, c := range map[string]struct {
		facts Facts
		want  Way
	}{
		"what was given": {
			Facts{Explicit: "10.1.1.1:8500", ExplicitFrom: "CONSUL_HTTP_ADDR", Nomad: tls, OwnNetwork: true, Sockets: good},
			Way{Address: "10.1.1.1:8500", From: "CONSUL_HTTP_ADDR"},
		},
		"a given socket, wherever": {
			Facts{Explicit: "unix:///a/alloc/tmp/consul_http.sock", ExplicitFrom: "-http-addr", OwnNetwork: true, HostError: no},
			Way{Address: "unix:///a/alloc/tmp/consul_http.sock", From: "-http-addr"},
		},
		"a given loopback is the host's": {
			Facts{Explicit: "localhost:8500", ExplicitFrom: "CONSUL_HTTP_ADDR", Nomad: tls, OwnNetwork: true, Sockets: good},
			Way{Address: "localhost:8500", From: "CONSUL_HTTP_ADDR", OnHost: true},
		},
		"a given loopback that cannot be reached gives way": {
			Facts{Explicit: "127.0.0.1:8500", ExplicitFrom: "CONSUL_HTTP_ADDR", Nomad: tls, OwnNetwork: true, HostError: no, Sockets: good},
			Way{Address: "https://10.0.0.1:8501", Server: &tls, From: "Nomad's own consul block"},
		},
		"Nomad's own": {
			Facts{Nomad: tls, OwnNetwork: true, Sockets: good},
			Way{Address: "https://10.0.0.1:8501", Server: &tls, From: "Nomad's own consul block"},
		},
		"a socket": {
			Facts{Nomad: local, OwnNetwork: true, Sockets: good},
			Way{Address: "unix:///run/consul/http.sock", From: "a well-known place"},
		},
		"a socket, as Nomad's own is relative": {
			Facts{Nomad: Server{Address: "unix://run/http.sock"}, OwnNetwork: true, HostError: no, Sockets: good},
			Way{Address: "unix:///run/consul/http.sock", From: "a well-known place"},
		},
		"the loopback of the host, as Nomad has it": {
			Facts{Nomad: local, OwnNetwork: true, Sockets: good[:1]},
			Way{Address: "127.0.0.1:8500", Server: &local, From: "Nomad's own consul block", OnHost: true},
		},
		"the loopback of the host, by TLS": {
			Facts{Nomad: Server{SSL: true}, OwnNetwork: true},
			Way{Address: "https://127.0.0.1:8500", Server: &Server{SSL: true}, From: "Nomad's own consul block", OnHost: true},
		},
		"the loopback of the host, as a last guess": {
			Facts{NomadError: errors.New("no file"), OwnNetwork: true},
			Way{Address: "127.0.0.1:8500", From: "Consul's default", OnHost: true},
		},
		"on the host, what was given": {
			Facts{Explicit: "127.0.0.1:1", ExplicitFrom: "-http-addr", Nomad: tls, HostError: no},
			Way{Address: "127.0.0.1:1", From: "-http-addr"},
		},
		"on the host, Nomad's own": {
			Facts{Nomad: local, HostError: no, Sockets: good},
			Way{Address: "127.0.0.1:8500", Server: &local, From: "Nomad's own consul block"},
		},
		"on the host, a socket": {
			Facts{NomadError: errors.New("no file"), Sockets: good},
			Way{Address: "unix:///run/consul/http.sock", From: "a well-known place"},
		},
		"on the host, nothing known": {Facts{NomadError: errors.New("no file")}, Way{From: "Consul's default"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Reach(c.facts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A loopback address in the network of the group is never dialled there: any
// task of the group may listen on it.
func TestNoWayToConsulSaysWhatWasTriedAndWhatToDo(t *testing.T) {
	_, err := Reach(Facts{
		Explicit: "127.0.0.1:8500", ExplicitFrom: "CONSUL_HTTP_ADDR", Nomad: Server{}, OwnNetwork: true,
		HostError: errors.New("operation not permitted"), Sockets: []Socket{{Path: "/opt/s", Err: errors.New("/opt/s is not trusted")}},
	})
	if !errors.Is(err, ErrUnreachable) {
		t.Fatalf("the error is %v", err)
	}
	for _, want := range []string{
		"CONSUL_HTTP_ADDR is 127.0.0.1:8500, which is the loopback of this group and not of the host",
		"Nomad itself uses 127.0.0.1:8500", "/opt/s is not trusted", "operation not permitted",
		"client_addr", `addresses { http = "unix:///run/consul/http.sock" }`, "raw_exec as root",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestLoopbackIsKnownInEverySpelling(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:8500": true, "127.3.2.1": true, "[::1]:8500": true, "http://localhost:8500/x": true, "https://LOCALHOST.": true,
		"http://u:p@127.0.0.1:8500": true, ":8500": true, "0.0.0.0:8500": true, "[::]:8500": true, "a.localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		"10.0.0.1:8500": false, "consul.service.consul:8500": false, "unix:///run/consul": false, "[fe80::1]:1": false, "localhost.example:1": false,
	} {
		if got := IsLoopback(address); got != want {
			t.Errorf("%s: %t", address, got)
		}
	}
}

func TestSocketThatOthersCouldHavePutThereIsNotTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files to other users: run it as root")
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir, path string)
		says    string // "" is trusted
	}{
		"of root":                      {func(*testing.T, string, string) {}, ""},
		"of Consul's user":             {func(t *testing.T, dir, path string) { chown(t, dir, 990); chown(t, path, 990) }, ""},
		"a directory of all":           {func(t *testing.T, dir, _ string) { chmod(t, dir, 0o1777) }, "written to by others"},
		"a directory of a group":       {func(t *testing.T, dir, _ string) { chmod(t, dir, 0o770) }, "written to by others"},
		"a directory of somebody else": {func(t *testing.T, dir, _ string) { chown(t, dir, 1234) }, "belongs to neither"},
		"no socket": {func(t *testing.T, _, path string) {
			if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "not a socket"},
		"a link out of a place of all": {func(t *testing.T, dir, path string) {
			open := filepath.Join(dir, "open")
			if err := errors.Join(os.Mkdir(open, 0o700), os.Rename(path, filepath.Join(open, "s")), os.Symlink("open/s", path)); err != nil {
				t.Fatal(err)
			}
			chmod(t, open, 0o777)
		}, "written to by others"},
	} {
		t.Run(name, func(t *testing.T) {
			// Not t.TempDir: /tmp is open to all.
			dir, err := os.MkdirTemp("/run", "outrider-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			path := filepath.Join(dir, "http.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			defer l.Close()
			c.prepare(t, dir, path)
			got := Sockets([]string{filepath.Join(dir, "none"), path})
			if len(got) != 1 || got[0].Path != path {
				t.Fatalf("found %+v", got)
			}
			if err := got[0].Err; (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %v, want %q", err, c.says)
			}
		})
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Chown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode uint32) {
	t.Helper()
	bits := os.FileMode(mode & 0o777)
	if mode&0o1000 != 0 {
		bits |= os.ModeSticky
	}
	if err := os.Chmod(path, bits); err != nil {
		t.Fatal(err)
	}
}

func TestServerThatTheTaskCannotUseIsSaidSo(t *testing.T) {
	if err := (Server{Address: "10.0.0.1:8500"}).Usable(); err != nil {
		t.Error(err)
	}
	missing := filepath.Join(t.TempDir(), "x")
	if err := (Server{Address: "10.0.0.1:8500", SSL: true, CAFile: missing}).Usable(); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("without its CA file: %v", err)
	}
	if err := (Server{Address: "unix://" + missing}).Usable(); err == nil || !strings.Contains(err.Error(), "does not see") {
		t.Errorf("without its socket: %v", err)
	}
}
