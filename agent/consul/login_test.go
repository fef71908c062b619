// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
)

func TestALoginIsReplacedBetweenHalfAndThreeQuartersOfItsLifeAndTheOldOneLoggedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Minute)
		d.start(t)
		for range 600 {
			if code, err := d.ask(t.Context(), "/x"); code != 200 {
				t.Fatalf("after %s: %d, %v", time.Since(d.times()[0]), code, err)
			}
			if n := len(d.alive()); n > 2 {
				t.Fatalf("%d tokens are alive", n)
			}
			time.Sleep(time.Second)
		}
		if len(d.times()) < 600/45 || len(d.times()) > 600/30+1 {
			t.Errorf("%d logins in 10 minutes", len(d.times()))
		}
		for i := range d.times()[1:] {
			if gap := d.times()[i+1].Sub(d.times()[i]); gap < 30*time.Second || gap > 45*time.Second {
				t.Errorf("login %d came after %s", i+1, gap)
			}
		}
		if limit := d.seat.patience(); limit != 12*time.Second {
			t.Errorf("queries may block for %s, want a fifth of a minute", limit)
		}
		if s := d.login.status(); len(s) != 1 || s[0].Err != nil || s[0].LastSuccess.IsZero() || time.Until(s[0].Expires) > time.Minute || time.Until(s[0].Expires) < 10*time.Second {
			t.Errorf("status %+v", s)
		}
		d.stop()
		if left := d.alive(); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// What answers may say anything about the life of its tokens.
func TestATokenThatEndsAtOnceMakesNoStormOfLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Nanosecond)
		d.start(t)
		time.Sleep(time.Minute)
		if n := len(d.times()); n < 2 || n > 21 {
			t.Errorf("%d logins in a minute, want one in %s", n, settle)
		}
		d.stop()
	})
}

func TestATokenThatDoesNotEndIsLeftAloneAndLoggedOutAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0)
		d.start(t)
		time.Sleep(48 * time.Hour)
		if len(d.times()) != 1 || d.seat.patience() != 0 {
			t.Errorf("%d logins, patience %s", len(d.times()), d.seat.patience())
		}
		d.stop()
		if left := d.alive(); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestATokenThatServicesAreRegisteredWithIsNotLoggedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, 0)
		d.start(t)
		synctest.Wait()
		d.seat.hold("web", true)
		d.stop()
		if left := d.alive(); len(left) != 1 {
			t.Errorf("alive: %v, want the token with which Consul publishes the health of web", left)
		}
	})
}

func TestTheTokenInHandServesWhileLoginsFailAndThenRequestsSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Minute)
		d.start(t)
		synctest.Wait()
		d.set(func() { d.registry.status, d.text = 500, "no cluster leader for "+testJWT })
		time.Sleep(59 * time.Second)
		if code, err := d.ask(t.Context(), "/x"); code != 200 {
			t.Fatalf("before the end: %d, %v", code, err)
		}
		time.Sleep(2 * time.Second)
		_, err := d.ask(t.Context(), "/x")
		wantError(t, err, "the ACL token ended at", "no cluster leader", `auth method "wi"`, "check the JWT in")
		if strings.Contains(err.Error(), testJWT) || status(err) != 0 {
			t.Errorf("error %q with status %d, want neither the JWT nor the status of the login", err, status(err))
		}
		if s := d.login.status()[0]; s.Err == nil || s.Failures == 0 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(10 * time.Minute)
		warned, failed := strings.Count(d.log.String(), "[WARN]"), d.login.status()[0].Failures
		if want := 1 + failed/10; warned != want || failed < 20 {
			t.Errorf("%d warnings for %d failures, want %d", warned, failed, want)
		}
		d.set(func() { d.registry.status = 0 })
		time.Sleep(30 * time.Second)
		if code, err := d.ask(t.Context(), "/x"); code != 200 {
			t.Errorf("after the outage: %d, %v", code, err)
		}
	})
}

func TestRequestsWaitForTheFirstLoginAndGoOnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Minute)
		d.set(func() { d.registry.status, d.text = 403, `ACL not found: auth method "wi" not found` })
		d.start(t)
		began := time.Now()
		_, err := d.ask(t.Context(), "/x")
		wantError(t, err, "there is no ACL token yet", `create auth method "wi"`)
		if waited := time.Since(began); waited != firstWithin {
			t.Errorf("waited %s", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = d.ask(ctx, "/x")
		wantError(t, err, "there is no ACL token yet")
		// A login that succeeds while the request waits.
		asked := make(chan time.Time, 1)
		go func() {
			for code := 0; code != 200; {
				code, _ = d.ask(t.Context(), "/x")
			}
			asked <- time.Now()
		}()
		time.Sleep(time.Second)
		d.set(func() { d.registry.status = 0 })
		if at := <-asked; !at.Equal(d.times()[len(d.times())-1]) {
			t.Errorf("the request went on %s after the login", at.Sub(d.times()[len(d.times())-1]))
		}
	})
}

func TestATokenThatConsulDoesNotKnowLeadsToOneLoginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.start(t)
		time.Sleep(time.Minute)
		d.set(func() { clear(d.live) })
		changed := d.seat.changed()
		for range 5 {
			if code, _ := d.ask(t.Context(), "/x"); code == 200 {
				break
			}
		}
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody was told of another token")
		}
		if code, err := d.ask(t.Context(), "/x"); code != 200 || len(d.times()) != 2 {
			t.Errorf("%d, %v after %d logins, want 2", code, err, len(d.times()))
		}
	})
}

func TestAPermissionThatIsMissingAsksForNoLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.start(t)
		for range 100 {
			if code, err := d.ask(t.Context(), "/denied"); code != 403 {
				t.Fatalf("%d, %v", code, err)
			}
			time.Sleep(time.Second)
		}
		if len(d.times()) != 1 {
			t.Errorf("%d logins, want 1", len(d.times()))
		}
	})
}

func TestTokensThatDieYoungMakeNoStormOfLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.lag = 24 * time.Hour
		d.start(t)
		for range 36000 { // an hour
			_, _ = d.ask(t.Context(), "/x")
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(d.times()); n < 5 || n > 20 {
			t.Errorf("%d logins in an hour of tokens that nobody knows", n)
		}
	})
}

func TestATokenThatAServerLearnsOfLaterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.lag = 2 * time.Second
		d.start(t)
		for range 50 {
			_, _ = d.ask(t.Context(), "/x")
			time.Sleep(100 * time.Millisecond)
		}
		if code, err := d.ask(t.Context(), "/x"); code != 200 || len(d.times()) != 1 {
			t.Errorf("%d, %v after %d logins", code, err, len(d.times()))
		}
	})
}

func TestTheJWTIsReadAtEachLoginAndOnlyAJWTIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Minute)
		d.start(t)
		synctest.Wait()
		put(t, d.cfg.TokenFile, "eyJ.secret.second")
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{testJWT, "eyJ.secret.second"}, d.jwts()); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		for name, content := range map[string]string{"empty": " \n", "two words": "secret word", "too large": strings.Repeat("s", maxToken+1)} {
			put(t, d.cfg.TokenFile, content)
			if g, err := d.exchange(t.Context()); err == nil || strings.Contains(err.Error(), "secret") || len(err.Error()) > 1000 {
				t.Errorf("%s: %v, %v", name, g, err)
			}
		}
		if n := len(d.jwts()); n != 2 {
			t.Errorf("%d logins were sent, want 2", n)
		}
	})
}

func TestGrantsAreReadStrictly(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name, answer string
		want         grant
		fails        string
	}{
		{"no end", `{"SecretID":"s","AccessorID":"a"}`, grant{token: "s", accessor: "a"}, ""},
		{"an end of zero", `{"SecretID":"s","ExpirationTime":"0001-01-01T00:00:00Z"}`, grant{token: "s"}, ""},
		{"with an end", `{"SecretID":"s","CreateTime":"2020-01-01T00:00:00Z","ExpirationTime":"2020-01-01T00:01:00Z"}`, grant{token: "s", life: time.Minute}, ""},
		{"ended", `{"SecretID":"s","CreateTime":"2020-01-01T00:01:00Z","ExpirationTime":"2020-01-01T00:01:00Z"}`, grant{}, "has ended already"},
		{"ended, made at no time", `{"SecretID":"s","ExpirationTime":"2020-01-01T00:01:00Z"}`, grant{}, "has ended already"},
		{"no token", `{"AccessorID":"a"}`, grant{}, "no token"},
		{"a header in the token", `{"SecretID":"s\r\nX: y"}`, grant{}, "no token"},
		{"not JSON", `<html>`, grant{}, "not the JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readGrant([]byte(tt.answer), now)
			if tt.fails != "" {
				wantError(t, err, tt.fails)
			} else if err != nil || got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestAWatchWithAnotherTokenDoesNotWaitOutItsBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, time.Hour)
		d.set(func() { d.registry.status, d.text = 500, "no leader" })
		d.start(t)
		slow := watch.Options{Sooner: d.seat.changed, BackoffBase: time.Hour, BackoffLimit: time.Hour, Random: func() float64 { return 0.9 }}
		good := make(chan time.Time, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go watch.Loop(ctx, slow, func(ctx context.Context, after watch.Cursor) (int, watch.Cursor, error) {
			if after.Index != 0 {
				<-ctx.Done()
			}
			code, err := d.ask(ctx, "/x")
			return code, watch.Cursor{Index: 1}, err
		}, func(_ int, err error) {
			if err == nil {
				good <- time.Now()
			}
		})
		time.Sleep(5 * time.Minute)
		d.set(func() { d.registry.status = 0 })
		if at := <-good; at.Sub(d.times()[len(d.times())-1]) > time.Second {
			t.Errorf("the watch went on %s after the login", at.Sub(d.times()[len(d.times())-1]))
		}
	})
}
