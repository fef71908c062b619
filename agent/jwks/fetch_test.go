// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwks

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyAWholeAnswerOfTheServerItselfCounts(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			_, _ = rw.Write([]byte(set("1")))
		case "/gzip":
			if r.Header.Get("Accept-Encoding") != "" {
				t.Error("asks for an encoding in which little is a lot")
			}
			_, _ = rw.Write([]byte(set("1")))
		case "/redirect":
			http.Redirect(rw, r, elsewhere.URL, http.StatusFound)
		case "/missing":
			http.NotFound(rw, r)
		case "/empty":
			rw.WriteHeader(http.StatusNoContent)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := rw.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/header":
			rw.Header().Set("X-Big", strings.Repeat("x", maxHeader))
		case "/short":
			rw.Header().Set("Content-Length", "1000")
			_, _ = rw.Write([]byte(set("1")))
		case "/hang":
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for uri, want := range map[string]string{
		server.URL + "/good":                       "",
		server.URL + "/gzip":                       "",
		server.URL + "/redirect?t=s3cret":          "status 302",
		server.URL + "/missing":                    "status 404",
		server.URL + "/empty":                      "status 204",
		server.URL + "/endless":                    "larger than 1048576 bytes",
		server.URL + "/header":                     "header",
		server.URL + "/short":                      "breaks off",
		server.URL + "/hang?t=s3cret":              "deadline",
		"http://" + closed.Addr().String():         "refused",
		"file:///etc/passwd":                       "not one of http or https",
		"ftp://a.example/x":                        "not one of http or https",
		"https:///nohost":                          "not one of http or https",
		"http://s3cret:s3cret@127.0.0.1:1/?s3cret": "refused",
		"http://a.example/%zz?s3cret":              "not one of http or https",
	} {
		timeout := time.Minute
		if want == "deadline" {
			timeout = 100 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		body, err := HTTP(ctx, RemoteKeys{URI: uri})
		cancel()
		switch {
		case want == "" && (err != nil || string(body) != set("1")):
			t.Errorf("%s: %q, %v", uri, body, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", uri, err, want)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: the error shows a secret: %v", uri, err)
		}
	}
}

func TestTheServersCertificateIsChecked(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(set("1"))) }))
	server.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	server.StartTLS()
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(ca), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEY_SET_CA", ca)
	for name, tc := range map[string]struct {
		remote RemoteKeys
		err    string
	}{
		"system roots":            {RemoteKeys{}, "certificate"},
		"another CA":              {RemoteKeys{CA: meshca.PEM(meshca.New("x").Cert)}, "certificate"},
		"its CA":                  {RemoteKeys{CA: ca}, ""},
		"its CA in a file":        {RemoteKeys{CAFile: file}, ""},
		"its CA in a variable":    {RemoteKeys{CAEnvironment: "KEY_SET_CA"}, ""},
		"a variable with nothing": {RemoteKeys{CAEnvironment: "KEY_SET_CA_NOT_SET"}, "no certificate"},
		"no file":                 {RemoteKeys{CAFile: file + "x"}, "CA file"},
		"no PEM":                  {RemoteKeys{CA: "x"}, "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.remote.URI = server.URL
			body, err := HTTP(t.Context(), tc.remote)
			if tc.err == "" && (err != nil || string(body) != set("1")) {
				t.Errorf("%q, %v", body, err)
			}
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("%v, want %q", err, tc.err)
			}
		})
	}
}

func TestEnvironmentDoesNotRedirectFetches(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(set("1"))) }))
	defer server.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	if _, err := HTTP(t.Context(), RemoteKeys{URI: server.URL}); err != nil {
		t.Error(err)
	}
}
