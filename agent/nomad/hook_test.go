// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hookEnv = `["NOMAD_ALLOC_ID=d8aed6f0", "CONSUL_HTTP_SSL=false", "CONSUL_HTTP_SSL_VERIFY=true"]`

const hookCommand = "connect envoy -grpc-addr unix://alloc/tmp/consul_grpc.sock -http-addr 127.0.0.1:8500 -admin-bind 127.0.0.2:19001 -address 127.0.0.1:19101 -proxy-id x -bootstrap -token secret-token"

func TestOwnServerIsWhatNomadToldTheHook(t *testing.T) {
	for name, c := range map[string]struct {
		command, env string
		want         Server
	}{
		"plain":           {hookCommand, hookEnv, Server{Address: "127.0.0.1:8500"}},
		"another address": {"connect envoy -http-addr 10.0.0.1:8500 -bootstrap", hookEnv, Server{Address: "10.0.0.1:8500"}},
		"joined":          {"connect envoy --http-addr=10.0.0.1:8500", "[]", Server{Address: "10.0.0.1:8500"}},
		"none":            {"connect envoy -bootstrap", "[]", Server{}},
		"tls": {
			"connect envoy -http-addr 10.0.0.1:8501",
			`["CONSUL_HTTP_SSL=true","CONSUL_CACERT=/ca.pem","CONSUL_CAPATH=/ca","CONSUL_CLIENT_CERT=/c.pem","CONSUL_CLIENT_KEY=/k.pem"]`,
			Server{Address: "10.0.0.1:8501", SSL: true, CAFile: "/ca.pem", CAPath: "/ca", CertFile: "/c.pem", KeyFile: "/k.pem"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			task := taskIn(t, map[string]string{".envoy_bootstrap.cmd": c.command, ".envoy_bootstrap.env": c.env})
			got, err := task.OwnServer()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHookThatIsNotUnderstoodIsAnErrorWithoutItsToken(t *testing.T) {
	for name, c := range map[string]struct{ command, env, says string }{
		"another command":  {"secret-token envoy", "[]", "connect envoy"},
		"no address":       {"connect envoy -token secret-token -http-addr", "[]", "no address"},
		"flag as address":  {"connect envoy -http-addr -token secret-token", "[]", "no address"},
		"env is no list":   {hookCommand, "secret-token", "not a list"},
		"too large a file": {hookCommand + strings.Repeat(" ", maxHook), "[]", "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := taskIn(t, map[string]string{".envoy_bootstrap.cmd": c.command, ".envoy_bootstrap.env": c.env}).OwnServer()
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret-token") {
				t.Errorf("the error is %v, want %q", err, c.says)
			}
		})
	}
	if _, err := taskIn(t, nil).OwnServer(); err == nil || !strings.Contains(err.Error(), "learn where Nomad reaches Consul") {
		t.Errorf("without files: %v", err)
	}
}

func FuzzParseHook(f *testing.F) {
	f.Add([]byte(hookCommand), []byte(hookEnv))
	f.Add([]byte("connect envoy -http-addr="), []byte("[null]"))
	f.Fuzz(func(t *testing.T, command, env []byte) {
		s, err := parseHook(command, env)
		if err == nil && s.Address != "" && !isName(s.Address) {
			t.Errorf("accepted %q", s.Address)
		}
		if err != nil && s != (Server{}) {
			t.Errorf("%+v beside the error %v", s, err)
		}
	})
}

// taskIn returns a task with files in its secrets directory.
func taskIn(t *testing.T, files map[string]string) Task {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Task{AllocID: "a", Name: "connect-proxy-api", SecretsDir: dir}
}
