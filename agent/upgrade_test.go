// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/handover"
)

func TestOnlyWhoMayBeReplacedIsUpgraded(t *testing.T) {
	w := newWorld(t)
	sockets, err := handover.Inherit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		sockets *handover.Sockets
		tracked bool
		want    error
	}{
		{"without sockets", nil, false, errNoUpgrade},
		{"a task of Nomad", sockets, true, errNoUpgrade},
		{"one that does not run", sockets, false, errBusy},
	} {
		var log lockedBuffer
		a, err := New(Options{Config: w.config(t, filepath.Join(t.TempDir(), "admin.sock")), Logger: hclog.New(&hclog.LoggerOptions{Output: &log}), Handover: c.sockets, Tracked: c.tracked})
		if err != nil {
			t.Fatal(err)
		}
		if done, err := a.Upgrade(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", c.name, done, err)
		}
		a.Replace()
		if !strings.Contains(log.String(), c.want.Error()) {
			t.Errorf("%s: the log says %q", c.name, log.String())
		}
	}
}

func TestUpgradesAreAskedForOnTheUnixSocketOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := start(t, w)
	r.waitReady(t)
	post := func(h http.Handler) int {
		answered := httptest.NewRecorder()
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://outrider/v1/upgrade", nil)
		if err != nil {
			t.Fatal(err)
		}
		h.ServeHTTP(answered, req)
		return answered.Code
	}
	if code := post(r.adminMux()); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		t.Errorf("what every address serves answers %d", code)
	}
	if code := post(http.HandlerFunc(r.upgradeHandler)); code != http.StatusConflict {
		t.Errorf("one that cannot be replaced answers %d", code)
	}
}
