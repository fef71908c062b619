// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dev

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTourBehavesAndEnds(t *testing.T) {
	var out strings.Builder
	err := Run(t.Context(), Options{Out: &out, Once: true, Logger: hclog.NewNullLogger(), Version: "test"})
	if err != nil || strings.Contains(out.String(), "✗") || strings.Count(out.String(), "✓") != 8 {
		t.Errorf("%v\n%s", err, &out)
	}
	for _, part := range []string{"hello from api", "intention_denied", "default policy", `intention "web → api"`, "GET /admin: 403", "x-outrider-reason: intention_denied"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the tour does not show %q:\n%s", part, &out)
		}
	}
}

// Without an agent nothing becomes ready, and the tour must say so instead of
// going on.
func TestTourFailsAtTheStepThatDoesNotBehave(t *testing.T) {
	var out strings.Builder
	w, err := newWorld(t.Context(), Options{Out: &out, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.remove()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = w.tour(ctx)
	if err == nil || !strings.Contains(err.Error(), "the sidecars have registered") {
		t.Errorf("error %v", err)
	}
	if strings.Contains(out.String(), "✓") || strings.Count(out.String(), "✗") != 1 {
		t.Errorf("shown:\n%s", &out)
	}
}

func TestMeshStaysUpUntilItIsEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Out: write, Logger: hclog.NewNullLogger()})
		_ = write.Close()
	}()
	var shown strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(shown.String(), "Deny and allow again") {
		n, err := read.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(buf[:n])
	}
	go func() { _, _ = io.Copy(io.Discard, read) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(shown.String(), "outrider status -admin unix://") {
		t.Errorf("no instructions:\n%s", &shown)
	}
}
