// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
)

// set is a key set with one key of the given ID.
func set(kid string) string { return `{"keys":[{"kid":"` + kid + `","kty":"EC"}]}` }

// world is a keeper in a synctest bubble with origins that the test controls.
type world struct {
	*Keeper
	log *lockedBuffer

	mu      sync.Mutex
	answers map[string]func(context.Context) ([]byte, error) // by URI
	fetched map[string][]time.Duration                       // since the start, by URI
	began   time.Time
	got     []map[string]connect.JWTProvider
}

func start(t *testing.T, random float64) *world {
	w := &world{answers: map[string]func(context.Context) ([]byte, error){}, fetched: map[string][]time.Duration{}, began: time.Now(), log: &lockedBuffer{}}
	w.Keeper = New(Options{
		Logger: hclog.New(&hclog.LoggerOptions{Output: w.log, Level: hclog.Trace}),
		Random: func() float64 { return random },
		Fetch: func(ctx context.Context, r RemoteKeys) ([]byte, error) {
			w.mu.Lock()
			w.fetched[r.URI] = append(w.fetched[r.URI], time.Since(w.began))
			answer := w.answers[r.URI]
			w.mu.Unlock()
			return answer(ctx)
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) answer(uri, body string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[uri] = func(context.Context) ([]byte, error) { return []byte(body), err }
}

func (w *world) deliver(p map[string]connect.JWTProvider) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, p)
}

func (w *world) deliveries() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.got)
}

func (w *world) last() map[string]connect.JWTProvider {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.got) == 0 {
		return nil
	}
	return w.got[len(w.got)-1]
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (w *world) times(uri string) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Duration(nil), w.fetched[uri]...)
}

func remote(uri string) Source {
	return Source{Provider: connect.JWTProvider{Issuer: "iss"}, Remote: &RemoteKeys{URI: uri}}
}

func after(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestKeysAreFetchedWhenWantedAndAgainBeforeTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0.5)
		w.answer("https://a.example/k", set("1"), nil)
		w.Set(map[string]Source{"a": remote("https://a.example/k")})
		after(time.Hour)
		if len(w.times("https://a.example/k")) != 0 {
			t.Error("fetched what nobody wants")
		}
		w.Want("s1", []string{"a"}, w.deliver)
		w.Set(map[string]Source{"a": remote("https://a.example/k")})
		after(time.Second)
		want := map[string]connect.JWTProvider{"a": {Name: "a", Issuer: "iss", Keys: set("1")}}
		if diff := cmp.Diff(want, w.last()); diff != "" {
			t.Error(diff)
		}
		w.answer("https://a.example/k", set("2"), nil)
		after(5 * time.Minute)
		if w.last()["a"].Keys != set("2") {
			t.Errorf("after the documented 5 minutes: %v", w.last())
		}
		gap := w.times("https://a.example/k")[1] - time.Hour
		if gap < 4*time.Minute || gap >= 5*time.Minute {
			t.Errorf("fetched again after %v", gap)
		}
		// Nothing new: nothing is delivered.
		n := w.deliveries()
		after(time.Hour)
		if w.deliveries() != n || len(w.times("https://a.example/k")) < 12 {
			t.Errorf("%d deliveries, %d fetches", w.deliveries()-n, len(w.times("https://a.example/k")))
		}
		w.Want("s1", nil, nil)
		n = len(w.times("https://a.example/k"))
		after(time.Hour)
		if len(w.times("https://a.example/k")) != n {
			t.Error("goes on fetching what nobody wants any more")
		}
	})
}

func TestOneKeySetIsFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0)
		const uri = "https://a.example/k"
		w.answer(uri, set("1"), nil)
		other := &world{}
		w.Want("s1", []string{"a", "b"}, w.deliver)
		w.Want("s2", []string{"a"}, other.deliver)
		w.Set(map[string]Source{"a": remote(uri), "b": remote(uri), "c": remote("https://c.example/k")})
		after(time.Second)
		if len(w.times(uri)) != 1 || len(w.last()) != 2 || len(other.last()) != 1 || other.last()["a"].Keys == "" {
			t.Errorf("fetched %v, delivered %v and %v", w.times(uri), w.last(), other.last())
		}
		var third map[string]connect.JWTProvider
		w.Want("s3", []string{"b"}, func(p map[string]connect.JWTProvider) { third = p })
		if third["b"].Keys != set("1") {
			t.Errorf("who comes later is given %v at once", third)
		}
	})
}

func TestProviderIsHeldBackUntilItsFirstTryHasEndedAndDeniedIfItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0)
		const uri = "https://user:pa55@slow.example/k?token=s3cret"
		w.answers[uri] = func(ctx context.Context) ([]byte, error) {
			<-ctx.Done() // hangs
			return nil, ctx.Err()
		}
		w.Want("s", []string{"slow", "none", "inline"}, w.deliver)
		if w.deliveries() != 0 {
			t.Error("delivered before anything is known")
		}
		w.Set(map[string]Source{
			"slow": remote(uri), "inline": {Provider: connect.JWTProvider{Keys: set("i"), Audiences: []string{"x"}}},
		})
		synctest.Wait()
		first := w.last()
		if _, there := first["slow"]; there || first["inline"].Keys != set("i") || !strings.Contains(first["none"].Problem, `no jwt-provider config entry "none"`) {
			t.Errorf("at first: %+v", first)
		}
		after(2 * time.Second)
		p := w.last()["slow"]
		if p.Keys != "" || !strings.Contains(p.Problem, "no full answer within 1s") || !strings.Contains(p.Problem, "https://slow.example/k") {
			t.Errorf("after the time of a try: %+v", p)
		}
		shown := p.Problem + w.log.String() + fmt.Sprint(w.Status())
		for _, secret := range []string{"pa55", "s3cret", "user"} {
			if strings.Contains(shown, secret) {
				t.Errorf("%q is shown: %s", secret, shown)
			}
		}
	})
}

// An issuer that is down must not cut off everybody, and one that stays away
// must not keep a stolen key alive.
func TestLastGoodKeysServeForADayAndNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0.9)
		const uri = "https://a.example/k"
		w.answer(uri, set("1"), nil)
		w.Want("s", []string{"a"}, w.deliver)
		w.Set(map[string]Source{"a": remote(uri)})
		after(time.Second)
		w.answer(uri, "", errors.New("connection refused"))
		after(23 * time.Hour)
		if p := w.last()["a"]; p.Keys != set("1") || p.Problem != "" {
			t.Errorf("after 23 hours: %+v", p)
		}
		if s := w.Status(); len(s) != 1 || s[0].Failures < 100 || s[0].Err == nil || s[0].Origin != uri {
			t.Errorf("status %+v", s)
		}
		after(time.Hour - 2*time.Second)
		if p := w.last()["a"]; p.Keys != set("1") {
			t.Errorf("just before a day has passed: %+v", p)
		}
		after(10 * time.Minute)
		if p := w.last()["a"]; p.Keys != "" || !strings.Contains(p.Problem, "24h") || !strings.Contains(p.Problem, "connection refused") {
			t.Errorf("after a day: %+v", p)
		}
		w.answer(uri, set("2"), nil)
		after(time.Minute + time.Second)
		if p := w.last()["a"]; p.Keys != set("2") || p.Problem != "" {
			t.Errorf("afterwards: %+v", p)
		}
		if n := strings.Count(w.log.String(), "[WARN]"); n > 200 {
			t.Errorf("%d warnings", n)
		}
	})
}

func TestBadAnswerNeverReplacesGoodKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0.9)
		const uri = "https://a.example/k"
		w.answer(uri, set("1"), nil)
		w.Want("s", []string{"a"}, w.deliver)
		w.Set(map[string]Source{"a": remote(uri)})
		after(time.Second)
		for _, bad := range []string{"", "<html>", "{}", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`} {
			w.answer(uri, bad, nil)
			after(20 * time.Minute)
			if w.last()["a"].Keys != set("1") || w.Status()[0].Err == nil {
				t.Errorf("%q: %+v, %+v", bad, w.last(), w.Status())
			}
		}
	})
}

func TestRetriesFollowThePolicyAndThenSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0.5)
		const uri = "http://a.example/k"
		w.answer(uri, "", errors.New("no"))
		w.Want("s", []string{"a"}, w.deliver)
		w.Set(map[string]Source{"a": {Remote: &RemoteKeys{URI: uri, Retries: 3, Backoff: 2 * time.Second, MaxBackoff: 6 * time.Second}}})
		after(3 * time.Minute)
		want := []time.Duration{0, time.Second, 3 * time.Second, 6 * time.Second, 36 * time.Second, 66 * time.Second}
		if diff := cmp.Diff(want, w.times(uri)[:len(want)]); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(w.log.String(), "without TLS") {
			t.Error("http is not warned of")
		}
	})
}

func TestPauseStaysWithinBounds(t *testing.T) {
	for _, tc := range []struct {
		name     string
		file     bool
		remote   RemoteKeys
		failures int
		random   float64
		want     time.Duration
	}{
		{"default", false, RemoteKeys{}, 0, 0, 4 * time.Minute},
		{"asked for all the time", false, RemoteKeys{CacheFor: time.Nanosecond}, 0, 0, 4 * time.Second},
		{"asked for once a year", false, RemoteKeys{CacheFor: 365 * 24 * time.Hour}, 0, 1, 11*time.Hour + 24*time.Minute},
		{"no retries", false, RemoteKeys{}, 1, 0, 30 * time.Second},
		{"retry without jitter", false, RemoteKeys{Retries: 1}, 1, 0, 100 * time.Millisecond},
		{"retry", false, RemoteKeys{Retries: 9}, 9, 1, 10 * time.Second},
		{"huge backoff", false, RemoteKeys{Retries: 9, Backoff: 1 << 62}, 1, 1, 10 * time.Minute},
		{"long outage", false, RemoteKeys{Retries: 1}, 1000, 1, time.Minute},
		{"file", true, RemoteKeys{}, 7, 0.3, 10 * time.Second},
	} {
		if got := nextRead(tc.file, tc.remote, tc.failures, tc.random); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestANewURIIsNotTrustedWithTheKeysOfTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0)
		w.answer("https://old.example/k", set("old"), nil)
		w.answer("https://new.example/k", "", errors.New("down"))
		w.Want("s", []string{"a"}, w.deliver)
		w.Set(map[string]Source{"a": remote("https://old.example/k")})
		after(time.Second)
		w.Set(map[string]Source{"a": remote("https://new.example/k")})
		after(time.Second)
		if p := w.last()["a"]; p.Keys != "" || p.Problem == "" {
			t.Errorf("%+v", p)
		}
		// Another pace is no other set.
		w.answer("https://new.example/k", set("new"), nil)
		after(2 * time.Minute)
		next := remote("https://new.example/k")
		next.Remote.CacheFor = time.Hour
		n := w.deliveries()
		w.Set(map[string]Source{"a": next})
		after(time.Second)
		if w.last()["a"].Keys != set("new") || w.deliveries() != n {
			t.Errorf("%d more deliveries, %+v", w.deliveries()-n, w.last())
		}
	})
}

func TestKeySetsBeyondTheLimitDeny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0)
		sources := map[string]Source{}
		var names []string
		for i := range maxOrigins + 1 {
			uri := fmt.Sprintf("https://a.example/%d", i)
			w.answer(uri, set("1"), nil)
			sources[uri] = remote(uri)
			names = append(names, uri)
		}
		w.Want("s", names, w.deliver)
		w.Set(sources)
		after(time.Second)
		without := 0
		for _, p := range w.last() {
			if p.Keys == "" && strings.Contains(p.Problem, "too many") {
				without++
			}
		}
		if len(w.last()) != len(names) || without != 1 {
			t.Errorf("%d providers, %d without keys", len(w.last()), without)
		}
	})
}

func TestFileIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0)
		w.Want("s", []string{"a"}, w.deliver)
		w.Set(map[string]Source{"a": {KeysFile: path}})
		synctest.Wait()
		if p := w.last()["a"]; p.Keys != "" || !strings.Contains(p.Problem, path) {
			t.Errorf("without a file: %+v", p)
		}
		write(set("1"), time.Unix(1, 0))
		after(10 * time.Second)
		if p := w.last()["a"]; p.Keys != set("1") || p.Problem != "" {
			t.Errorf("%+v", p)
		}
		for _, bad := range []string{"{", strings.Repeat(" ", maxKeys) + set("x")} {
			write(bad, time.Unix(2, 0))
			after(30 * time.Second)
			if w.last()["a"].Keys != set("1") || w.Status()[0].Err == nil {
				t.Errorf("a bad file: %+v %+v", w.last(), w.Status())
			}
		}
		write(set("2"), time.Unix(2, 0)) // mended within the same second
		after(10 * time.Second)
		if p := w.last()["a"]; p.Keys != set("2") || w.Status()[0].Err != nil {
			t.Errorf("%+v", p)
		}
		// A file that looks the same confirms its keys.
		after(48 * time.Hour)
		if p := w.last()["a"]; p.Keys != set("2") {
			t.Errorf("after two days: %+v", p)
		}
	})
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	var s fileState
	if _, _, err := s.read(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Error(err)
	}
}

func TestSecondRunIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, 0)
		synctest.Wait()
		if err := w.Run(t.Context()); !errors.Is(err, errRunning) {
			t.Error(err)
		}
	})
}
