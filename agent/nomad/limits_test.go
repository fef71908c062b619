// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A directory further up decides as well who may put another socket there.
func TestSocketBelowADirectoryOfOthersIsNotTrusted(t *testing.T) {
	for name, c := range map[string]struct {
		outer, inner uint32
		says         string // "" is trusted
	}{
		"of root":                {0o755, 0o755, ""},
		"of all but the group":   {0o755, 0o703, "written to by others"},
		"further up, of all":     {0o777, 0o755, "written to by others"},
		"further up, of a group": {0o775, 0o700, "written to by others"},
	} {
		t.Run(name, func(t *testing.T) {
			// Not t.TempDir: /tmp is open to all.
			outer, err := os.MkdirTemp("/run", "outrider-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(outer) })
			inner := filepath.Join(outer, "consul")
			if err := os.Mkdir(inner, 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(inner, "http.sock"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			chmod(t, inner, c.inner)
			chmod(t, outer, c.outer)
			got := Sockets([]string{l.Addr().String()})
			if len(got) != 1 || (got[0].Err == nil) != (c.says == "") || c.says != "" && !strings.Contains(got[0].Err.Error(), c.says) {
				t.Errorf("found %+v, want %q", got, c.says)
			}
		})
	}
}

func TestServerThatCannotBeUsedIsNoWay(t *testing.T) {
	facts := Facts{
		Nomad: Server{Address: "10.0.0.1:8501", SSL: true, CAFile: "/ca"}, NomadError: errors.New("open /ca: permission denied"), OwnNetwork: true,
		HostError: errors.New("operation not permitted"),
	}
	if way, err := Reach(facts); err == nil || !strings.Contains(err.Error(), "open /ca: permission denied") {
		t.Errorf("way %+v, error %v", way, err)
	}
	facts.Sockets = []Socket{{Path: "/run/consul/http.sock"}}
	if way, err := Reach(facts); err != nil || way.Address != "unix:///run/consul/http.sock" {
		t.Errorf("with a socket: %+v, %v", way, err)
	}
	onHost := Facts{Nomad: Server{Address: "unix://run/http.sock"}, Sockets: facts.Sockets}
	if way, err := Reach(onHost); err != nil || way.Address != "unix:///run/consul/http.sock" {
		t.Errorf("on the host, with an address relative to a directory of Nomad's: %+v, %v", way, err)
	}
}

func TestEveryAddressIsKnownAsSuch(t *testing.T) {
	for address, want := range map[string]bool{
		":8500": true, "0.0.0.0:8500": true, "[::]:8500": true, "[::ffff:0.0.0.0]:8500": true,
		"127.0.0.1:8500": false, "[::1]:8500": false, "localhost:8500": false, "10.0.0.1:8500": false,
	} {
		if got := IsUnspecified(address); got != want {
			t.Errorf("%s: %t", address, got)
		}
	}
	if !IsLoopback("[::ffff:0.0.0.0]:8500") {
		t.Error("0.0.0.0 as an IPv6 address leads to this host too")
	}
}

func TestIdentitiesAreLimited(t *testing.T) {
	files := map[string]string{"nomad_00.jwt": jwt(`{"aud":"consul.io","x":"` + strings.Repeat("a", maxJWT) + `"}`)}
	for n := range maxIdentities + 3 {
		files[fmt.Sprintf("nomad_%03d.jwt", n)] = jwt(`{"aud":"consul.io"}`)
	}
	all, err := taskIn(t, files).Identities()
	if err != nil || len(all) != maxIdentities {
		t.Errorf("%d identities, error %v, want %d", len(all), err, maxIdentities)
	}
	for _, i := range all {
		if i.Name == "00" {
			t.Errorf("an identity of more than %d bytes was read", maxJWT)
		}
	}
}

func TestSecretFileIsAFileThatHoldsSomething(t *testing.T) {
	task := taskIn(t, map[string]string{"si_token": "secret", "empty": ""})
	if err := errors.Join(os.Mkdir(filepath.Join(task.SecretsDir, "folder"), 0o700), syscall.Mkfifo(filepath.Join(task.SecretsDir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"si_token": filepath.Join(task.SecretsDir, "si_token"), "empty": "", "folder": "", "pipe": "", "missing": ""} {
		if got := task.SecretFile(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Whoever puts a pipe there, or a file without an end, must not hold us up.
func TestOnlyAFileWithinTheLimitIsRead(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	// A writer, so that reading it fails this test rather than hangs it.
	w, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("{}"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero"} {
		if text, err := readFile(path, 1); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := readFile(file, 5); err != nil || string(text) != "12345" {
		t.Errorf("just the limit: %q, %v", text, err)
	}
	if text, err := readFile(file, 4); err == nil || !strings.Contains(err.Error(), "larger than 4 bytes") {
		t.Errorf("more than the limit: %q, %v", text, err)
	}
}

func TestBootstrapLeavesOutWhatCannotBeUsed(t *testing.T) {
	got, err := ParseBootstrap([]byte(`{"node":{"id":"p","cluster":"a\u001b[2Jpi"},"admin":{"address":{"socket_address":{"address":"evil.example","port_value":80}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Bootstrap{ProxyID: "p"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := ParseBootstrap([]byte(strings.Repeat(" ", maxBootstrap) + `{"node":{"id":"p"}}`)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("too large: %v", err)
	}
	if _, err := parseHook([]byte("connect proxy -http-addr 10.0.0.1:8500"), []byte("[]")); err == nil {
		t.Error("the arguments of another command were taken for those of the hook")
	}
}
