// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

// A step is one scripted answer: after wait, value at next, or err.
type step struct {
	wait  time.Duration
	value string
	next  Cursor
	err   error
}

// A script answers queries in order, remembers what it was asked and when, and
// blocks once it is over.
type script struct {
	steps []step
	asked []Cursor
	at    []time.Duration
	began time.Time
}

func (s *script) fetch(ctx context.Context, after Cursor) (string, Cursor, error) {
	if s.began.IsZero() {
		s.began = time.Now()
	}
	s.asked = append(s.asked, after)
	s.at = append(s.at, time.Since(s.began))
	if len(s.asked) > len(s.steps) {
		<-ctx.Done()
		return "", Cursor{}, ctx.Err()
	}
	step := s.steps[len(s.asked)-1]
	if !sleep(ctx, step.wait) {
		return "", Cursor{}, ctx.Err()
	}
	return step.value, step.next, step.err
}

// play runs Loop over the script until it blocks and returns what was emitted.
func play(t *testing.T, s *script, opts Options) []string {
	t.Helper()
	var emitted []string
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Loop(ctx, opts, s.fetch, func(v string, err error) {
			if err != nil {
				v = "error: " + err.Error()
			}
			emitted = append(emitted, v)
		})
	}()
	time.Sleep(24 * time.Hour) // of the bubble: the script is over by then.
	cancel()
	<-done
	return emitted
}

func half() float64 { return 0.5 }

func TestLoopFollowsTheCursor(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name    string
		steps   []step
		asked   []Cursor
		emitted []string
	}{{
		name:    "index goes on",
		steps:   []step{{value: "a", next: Cursor{Index: 5}}, {value: "b", next: Cursor{Index: 6}}},
		asked:   []Cursor{{}, {Index: 5}, {Index: 6}},
		emitted: []string{"a", "b"},
	}, {
		name:    "same index is no event",
		steps:   []step{{value: "a", next: Cursor{Index: 5}}, {value: "a", next: Cursor{Index: 5}}},
		asked:   []Cursor{{}, {Index: 5}, {Index: 5}},
		emitted: []string{"a"},
	}, {
		name:    "index backwards starts from zero",
		steps:   []step{{value: "a", next: Cursor{Index: 5}}, {value: "b", next: Cursor{Index: 3}}, {value: "b", next: Cursor{Index: 3}}},
		asked:   []Cursor{{}, {Index: 5}, {}, {Index: 3}},
		emitted: []string{"a", "b", "b"},
	}, {
		name:    "index zero starts from zero",
		steps:   []step{{value: "a", next: Cursor{Index: 5}}, {value: "b"}, {value: "c"}},
		asked:   []Cursor{{}, {Index: 5}, {}, {}},
		emitted: []string{"a", "b", "c"},
	}, {
		name:    "hash goes on and the same hash is no event",
		steps:   []step{{value: "a", next: Cursor{Hash: "x"}}, {value: "a", next: Cursor{Hash: "x"}}, {value: "b", next: Cursor{Hash: "y"}}},
		asked:   []Cursor{{}, {Hash: "x"}, {Hash: "x"}, {Hash: "y"}},
		emitted: []string{"a", "b"},
	}, {
		name:    "an error starts from zero",
		steps:   []step{{value: "a", next: Cursor{Index: 5}}, {err: boom}, {value: "a", next: Cursor{Index: 2}}},
		asked:   []Cursor{{}, {Index: 5}, {}, {Index: 2}},
		emitted: []string{"a", "error: boom", "a"},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{steps: tt.steps}
				emitted := play(t, s, Options{Random: half})
				if diff := cmp.Diff(tt.asked, s.asked); diff != "" {
					t.Errorf("cursors asked for (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.emitted, emitted); diff != "" {
					t.Errorf("emitted (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestLoopKeepsTheMinimumGapOnlyWhenAnswersComeEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{
			{next: Cursor{Index: 1}},
			{next: Cursor{Index: 2}, wait: 100 * time.Millisecond},
			{next: Cursor{Index: 3}, wait: time.Minute},
			{next: Cursor{Index: 4}},
		}}
		play(t, s, Options{MinGap: 250 * time.Millisecond})
		want := []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, 60500 * time.Millisecond, 60750 * time.Millisecond}
		if diff := cmp.Diff(want, s.at); diff != "" {
			t.Errorf("queries at (-want +got):\n%s", diff)
		}
	})
}

func TestLoopBacksOffOnErrorsAndForgetsThemOnSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		s := &script{steps: []step{
			{err: boom}, {err: boom}, {err: boom}, {err: boom},
			{value: "a", next: Cursor{Index: 1}, wait: time.Second},
			{err: boom},
		}}
		play(t, s, Options{MinGap: time.Millisecond, BackoffBase: 2 * time.Second, BackoffLimit: 6 * time.Second, Random: half})
		// Pauses of 1, 2, 3 and 3 s; the success takes 1 s; then 1 s again.
		want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 6 * time.Second, 9 * time.Second, 10 * time.Second, 11 * time.Second}
		if diff := cmp.Diff(want, s.at); diff != "" {
			t.Errorf("queries at (-want +got):\n%s", diff)
		}
	})
}

func TestLoopKeepsTheMinimumGapWhenTheJitterIsZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{err: errors.New("a")}, {err: errors.New("b")}}}
		play(t, s, Options{MinGap: time.Second, Random: func() float64 { return 0 }})
		want := []time.Duration{0, time.Second, 2 * time.Second}
		if diff := cmp.Diff(want, s.at); diff != "" {
			t.Errorf("queries at (-want +got):\n%s", diff)
		}
	})
}

// A recorder is a log that can be read while it is written.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *recorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Split(strings.TrimSpace(r.text.String()), "\n")
}

func (r *recorder) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: r, Level: hclog.Debug, DisableTime: true})
}

func TestLoopTriesAtOnceWhenThereIsReasonToExpectABetterAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		s := &script{steps: []step{{wait: 10 * time.Second, err: boom}, {err: boom}, {value: "a", next: Cursor{Index: 1}}}}
		var mu sync.Mutex
		reason := make(chan struct{})
		for _, after := range []time.Duration{5 * time.Second, 10*time.Second + 400*time.Millisecond} {
			time.AfterFunc(after, func() {
				mu.Lock()
				defer mu.Unlock()
				close(reason)
				reason = make(chan struct{})
			})
		}
		sooner := func() <-chan struct{} {
			mu.Lock()
			defer mu.Unlock()
			return reason
		}
		play(t, s, Options{Sooner: sooner, BackoffBase: time.Hour, BackoffLimit: time.Hour, Random: half})
		// The first reason came while the query ran: it counts. The second ends a
		// pause, though never the minimum gap.
		want := []time.Duration{0, 10 * time.Second, 10*time.Second + 400*time.Millisecond, 10*time.Second + 650*time.Millisecond}
		if diff := cmp.Diff(want, s.at); diff != "" {
			t.Errorf("asked at (-want +got):\n%s", diff)
		}
	})
}

func TestLoopLogsTheFirstAndEveryTenthFailureAndTheRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log recorder
		s := &script{}
		for i := range 25 {
			s.steps = append(s.steps, step{err: fmt.Errorf("boom %d", i+1)})
		}
		s.steps = append(s.steps, step{value: "a", next: Cursor{Index: 1}}, step{value: "b", next: Cursor{Index: 2}})
		play(t, s, Options{Name: "roots", Logger: log.logger(), Random: half})
		lines := log.lines()
		wants := []string{"[WARN]  watch failed,", `failures=10`, `failures=20`, "[INFO]  watch recovered: watch=roots failures=25"}
		if len(lines) != len(wants) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(wants), strings.Join(lines, "\n"))
		}
		for i, want := range wants {
			if !strings.Contains(lines[i], want) {
				t.Errorf("line %d is %q, want it to contain %q", i+1, lines[i], want)
			}
		}
	})
}

func TestLoopEndsWhileItsQueryBlocksWithoutAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log recorder
		s := &script{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		Loop(ctx, Options{Logger: log.logger()}, s.fetch, func(v string, err error) {
			t.Errorf("emitted %q, %v", v, err)
		})
		if got := log.lines(); got[0] != "" {
			t.Errorf("logged %q", got)
		}
	})
}

func TestLoopEndsWhileItBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{steps: []step{{err: errors.New("boom")}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		Loop(ctx, Options{BackoffBase: time.Hour, BackoffLimit: time.Hour, Random: half}, s.fetch, func(string, error) {})
		if took := time.Since(began); took != time.Second {
			t.Errorf("ended after %v, want 1 s", took)
		}
	})
}
