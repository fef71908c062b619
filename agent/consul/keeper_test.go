// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A detour answers some requests itself, when it returns not nil.
type detour struct {
	next  http.RoundTripper
	first func(*http.Request) (*http.Response, error)
}

func (d detour) RoundTrip(r *http.Request) (*http.Response, error) {
	if response, err := d.first(r); response != nil || err != nil {
		return response, err
	}
	return d.next.RoundTrip(r)
}

// logouts fails every logout with a status, and returns when there were which.
func (d *desk) logouts(code int) func(token string) []time.Time {
	var mu sync.Mutex
	seen := map[string][]time.Time{}
	d.send = detour{d.registry, func(r *http.Request) (*http.Response, error) {
		if r.URL.Path != "/v1/acl/logout" {
			return nil, nil
		}
		mu.Lock()
		defer mu.Unlock()
		token := r.Header.Get("X-Consul-Token")
		seen[token] = append(seen[token], time.Now())
		if code == 0 {
			return nil, nil
		}
		return reply(code, "no leader"), nil
	}}
	return func(token string) []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen[token])
	}
}

// A query that began with the old token may block for a minute and a sixteenth.
func TestAReplacedTokenIsGoodUntilNoQueryCanUseIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.start(t)
		for len(d.times()) < 2 {
			time.Sleep(time.Second)
		}
		time.Sleep(blockFor + blockFor/16)
		if n := len(d.alive()); n != 2 {
			t.Errorf("%d tokens are alive a minute later, want both", n)
		}
		time.Sleep(10 * time.Second)
		if n := len(d.alive()); n != 1 {
			t.Errorf("%d tokens are alive when no query can use the old one, want one", n)
		}
	})
}

func TestALogoutThatFailsIsTriedAFewTimesAndNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		seen := d.logouts(500)
		d.start(t)
		for len(d.times()) < 2 {
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Minute)
		tries := seen("secret-token-1")
		if len(tries) != logoutTries {
			t.Fatalf("%d tries, want %d", len(tries), logoutTries)
		}
		for i := range tries[1:] {
			if gap := tries[i+1].Sub(tries[i]); gap < logoutAgain {
				t.Errorf("try %d came after %s", i+2, gap)
			}
		}
		if n := strings.Count(d.log.String(), "cannot log a replaced token out"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, d.log)
		}
	})
}

func TestATokenThatHasEndedIsNotLoggedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Minute)
		d.pace.Random = func() float64 { return 0.999 } // replaced as late as can be: it ends before its logout is due
		seen := d.logouts(0)
		d.start(t)
		time.Sleep(80 * time.Second)
		if tries := seen("secret-token-1"); len(tries) != 0 || len(d.times()) != 2 {
			t.Errorf("logged out at %v after %d logins", tries, len(d.times()))
		}
	})
}

func TestATokenThatIsGoneCountsAsLoggedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.start(t)
		synctest.Wait()
		d.set(func() { clear(d.live) })
		d.stop()
		if log := d.log.String(); strings.Contains(log, "[WARN]") || !strings.Contains(log, "logged out of Consul") {
			t.Errorf("the log is\n%s", log)
		}
	})
}

func TestTheEndDoesNotWaitForAConsulThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.send = detour{d.registry, func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/v1/acl/logout" {
				return nil, nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		}}
		d.start(t)
		synctest.Wait()
		began := time.Now()
		d.stop()
		if took := time.Since(began); took > farewell {
			t.Errorf("it took %s", took)
		}
	})
}

func TestALoginThatSucceedsWhileEverythingEndsIsLoggedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		d.send = detour{d.registry, func(r *http.Request) (*http.Response, error) {
			if r.URL.Path != "/v1/acl/login" {
				return nil, nil
			}
			defer cancel()
			return d.RoundTrip(r)
		}}
		d.run(ctx)
		if left := d.alive(); len(left) != 0 || len(d.times()) != 1 {
			t.Errorf("left behind: %v after %d logins", left, len(d.times()))
		}
	})
}

func TestALoginThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.send = detour{d.registry, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := d.exchange(ctx); err == nil || time.Since(began) != loginWithin {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// Whoever answers in Consul's place must not be able to send the JWT elsewhere.
func TestALoginFollowsNoRedirect(t *testing.T) {
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		d := newDesk(t, time.Hour)
		d.send = detour{d.registry, func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "127.0.0.1:8500" {
				t.Errorf("%d: the login went on to %s", code, r.URL.Host)
				return nil, nil
			}
			away := reply(code, "")
			away.Header.Set("Location", "http://elsewhere.example/v1/acl/login")
			return away, nil
		}}
		if g, err := d.exchange(t.Context()); err == nil {
			t.Errorf("%d: a login gave %q", code, g.accessor)
		}
	}
}

func TestReportsOfAnOldTokenOrOfManyChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		for range 3 {
			d.unknown("secret-token-0") // nobody receives yet, and nobody waits
		}
		d.start(t)
		for len(d.times()) < 2 {
			time.Sleep(time.Second)
		}
		for range 60 {
			time.Sleep(time.Second)
			d.unknown("secret-token-1")
		}
		if n := len(d.times()); n != 2 {
			t.Errorf("%d logins, want 2: the token that is not known was replaced already", n)
		}
	})
}

func TestAnUnknownTokenWhileLoginsFailMakesNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.start(t)
		time.Sleep(time.Minute)
		d.set(func() { clear(d.live); d.registry.status, d.text = 500, "no leader" })
		for range 6000 { // ten minutes
			_, _ = d.ask(t.Context(), "/x")
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(d.times()); n < 10 || n > 100 {
			t.Errorf("%d logins in ten minutes without a leader", n)
		}
	})
}

// A token that dies young delays the next login, but never beyond the one that
// its end asks for.
func TestALoginThatIsDueSoonIsNotPutOff(t *testing.T) {
	d := newDesk(t, time.Minute)
	now := time.Now()
	k := &loginKeeper{login: d.login, now: grant{token: "secret"}, loggedIn: now.Add(-4 * time.Second), gap: maxLoginGap, loginAt: now.Add(30 * time.Second)}
	k.died("secret", now)
	if at := k.loginAt.Sub(now); at != 30*time.Second {
		t.Errorf("the next login is in %s", at)
	}
}

func TestTokensThatWaitForTheirLogoutAreLimited(t *testing.T) {
	d := newDesk(t, time.Minute)
	k := &loginKeeper{login: d.login}
	for token := range strings.SplitSeq("abcdefghijkl", "") {
		k.now = grant{token: token}
		k.retire(time.Now())
	}
	if len(k.former) != maxFormer || k.former[maxFormer-1].token != "l" {
		t.Errorf("%d tokens, want the latest %d", len(k.former), maxFormer)
	}
}

func TestALoginNeedsItsMethodAndItsFile(t *testing.T) {
	b, err := parseAddress("")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []Login{{AuthMethod: "wi"}, {TokenFile: "/jwt"}, {}} {
		_, err := newLogin(Config{Login: &l}, b, newSeat(), nil, hclog.NewNullLogger())
		wantError(t, err, "set auth_method and token_file")
	}
}
