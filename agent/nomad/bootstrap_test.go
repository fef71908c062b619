// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const proxyID = "_nomad-task-d8aed6f0-1da2-7cb3-7bb6-c60e43e5ba71-group-api-api-9090-sidecar-proxy"

const bootToken = "00000000-1111-2222-3333-444444444444"

func TestBootstrapOfConsulIsRead(t *testing.T) {
	got, err := ReadBootstrap("testdata/envoy_bootstrap.json")
	if err != nil {
		t.Fatal(err)
	}
	want := Bootstrap{ProxyID: proxyID, Service: "api", Admin: "127.0.0.2:19001", Token: bootToken}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBootstrapKeepsTenanciesOfEnterpriseAndAListOfServices(t *testing.T) {
	got, err := ParseBootstrap([]byte(`{"node":{"id":"p","metadata":{"namespace":"team","partition":"edge"}},
		"dynamic_resources":{"ads_config":{"grpc_services":[{},{"initial_metadata":[{"key":"other","value":"x"},{"key":"x-consul-token","value":"tok"}]}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Bootstrap{ProxyID: "p", Namespace: "team", Partition: "edge", Token: "tok"}, got); diff != "" {
		t.Error(diff)
	}
}

// What is wrong is said, and never by quoting a file that holds a token.
func TestBadBootstrapIsAnErrorThatQuotesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		is   error
		says string
	}{
		"empty":         {"", ErrEmpty, "empty"},
		"blank":         {" \n", ErrEmpty, "empty"},
		"cut":           {`{"node":{"id":"secret-id"`, nil, "goes wrong at byte"},
		"garbage":       {"secret-id", nil, "goes wrong at byte 1"},
		"more after it": {`{"node":{"id":"a"}} secret-id`, nil, "goes wrong at byte"},
		"another type":  {`{"node":{"id":["secret-id"]}}`, nil, "node.id is of another type"},
		"no id":         {`{"node":{"cluster":"api"}}`, ErrNoProxyID, "node.id"},
		"empty id":      {`{"node":{"id":""}}`, ErrNoProxyID, "node.id"},
		"an id of two":  {`{"node":{"id":"a secret-id"}}`, ErrNoProxyID, "node.id"},
		"control bytes": {`{"node":{"id":"a\u001bsecret-id"}}`, ErrNoProxyID, "node.id"},
		"long id":       {`{"node":{"id":"` + strings.Repeat("a", 1025) + `"}}`, ErrNoProxyID, "node.id"},
		"too large":     {strings.Repeat(" ", 1<<20) + "{}", nil, "larger than"},
		"grpc services": {`{"node":{"id":"a"},"dynamic_resources":{"ads_config":{"grpc_services":"secret-id"}}}`, nil, "grpc_services"},
		"token of two":  {`{"node":{"id":"a"},"dynamic_resources":{"ads_config":{"grpc_services":{"initial_metadata":[{"key":"x-consul-token","value":"a\nsecret-id"}]}}}}`, nil, "x-consul-token"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "b.json")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadBootstrap(path)
			if err == nil {
				t.Fatalf("read %+v", got)
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret-id") {
				t.Errorf("the error is %q, want %q", err, c.says)
			}
		})
	}
}

func TestBootstrapThatIsNoFileIsAnError(t *testing.T) {
	if _, err := ReadBootstrap(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := ReadBootstrap(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	b := Bootstrap{ProxyID: "p", Token: bootToken}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%+v", b), fmt.Sprintf("%#v", b), fmt.Sprintf("%q", b), string(text)} {
		if strings.Contains(s, bootToken) {
			t.Errorf("printed: %s", s)
		}
	}
}

func FuzzParseBootstrap(f *testing.F) {
	seed, err := os.ReadFile("testdata/envoy_bootstrap.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"node":{"id":"a"},"dynamic_resources":{"ads_config":{"grpc_services":[{"initial_metadata":[{}]}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBootstrap(data)
		if err != nil {
			return
		}
		if !isName(b.ProxyID) || b.Token != "" && !isName(string(b.Token)) || b.Namespace == "default" {
			t.Errorf("accepted %q", b)
		}
	})
}
