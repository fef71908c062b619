// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"net/netip"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func hashHead() *connect.Head {
	return &connect.Head{
		Authority: "api.test", Path: "/x?user=7&user=8",
		Header: connect.Header{"X-User": {"bob"}, "X-Two": {"a", "b"}, "Cookie": {"a=1; sid=\"s1\"", "sid=s2"}},
	}
}

func none() netip.Addr { return netip.Addr{} }

func TestHashOfWhatIsThere(t *testing.T) {
	ip := netip.MustParseAddr("192.0.2.1")
	for _, tc := range []struct {
		name   string
		policy connect.HashPolicy
		change func(*connect.Head) // to something that must hash otherwise
		ok     bool
	}{
		{"header", connect.HashPolicy{Field: "header", Value: "x-user"}, func(h *connect.Head) { h.Header["X-User"] = []string{"eve"} }, true},
		{"authority", connect.HashPolicy{Field: "header", Value: ":authority"}, func(h *connect.Head) { h.Authority = "b" }, true},
		{"missing header", connect.HashPolicy{Field: "header", Value: "x-none"}, nil, false},
		{"cookie", connect.HashPolicy{Field: "cookie", Value: "sid"}, func(h *connect.Head) { h.Header["Cookie"] = []string{"sid=other"} }, true},
		{"missing cookie", connect.HashPolicy{Field: "cookie", Value: "id"}, nil, false},
		{"parameter", connect.HashPolicy{Field: "query_parameter", Value: "user"}, func(h *connect.Head) { h.Path = "/x?user=8&user=7" }, true},
		{"missing parameter", connect.HashPolicy{Field: "query_parameter", Value: "id"}, nil, false},
		{"unknown field", connect.HashPolicy{Field: "body", Value: "x"}, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policies := []connect.HashPolicy{tc.policy}
			key, ok, cookie := HashKey(policies, hashHead(), ip, nil)
			if ok != tc.ok || cookie != "" {
				t.Fatalf("ok %v, cookie %q", ok, cookie)
			}
			if again, _, _ := HashKey(policies, hashHead(), none(), nil); again != key {
				t.Error("the same request hashes differently")
			}
			if tc.change == nil {
				return
			}
			h := hashHead()
			tc.change(h)
			if other, ok, _ := HashKey(policies, h, ip, nil); !ok || other == key {
				t.Error("another request hashes alike")
			}
		})
	}
}

func TestHashOfTheSourceIgnoresHowItsAddressIsWritten(t *testing.T) {
	policies := []connect.HashPolicy{{SourceIP: true}}
	a, _, _ := HashKey(policies, hashHead(), netip.MustParseAddr("192.0.2.1"), nil)
	b, _, _ := HashKey(policies, hashHead(), netip.MustParseAddr("::ffff:192.0.2.1"), nil)
	c, _, _ := HashKey(policies, hashHead(), netip.MustParseAddr("192.0.2.2"), nil)
	if a != b || a == c {
		t.Errorf("%x %x %x", a, b, c)
	}
	if _, ok, _ := HashKey(policies, hashHead(), none(), nil); ok {
		t.Error("no address hashes to something")
	}
}

func TestHashOfRepeatedFieldsIgnoresTheirOrder(t *testing.T) {
	policies := []connect.HashPolicy{{Field: "header", Value: "x-two"}}
	a, _, _ := HashKey(policies, hashHead(), none(), nil)
	h := hashHead()
	h.Header["X-Two"] = []string{"b", "a"}
	b, _, _ := HashKey(policies, h, none(), nil)
	h.Header["X-Two"] = []string{"ab"}
	c, _, _ := HashKey(policies, h, none(), nil)
	if a != b || a == c {
		t.Errorf("%x %x %x", a, b, c)
	}
}

func TestPoliciesAreCombinedUntilATerminalOne(t *testing.T) {
	user := connect.HashPolicy{Field: "header", Value: "x-user"}
	absent := connect.HashPolicy{Field: "header", Value: "x-none", Terminal: true}
	two := connect.HashPolicy{Field: "header", Value: "x-two"}
	terminal := user
	terminal.Terminal = true
	key := func(p ...connect.HashPolicy) uint64 {
		k, _, _ := HashKey(p, hashHead(), none(), nil)
		return k
	}
	if key(user, two) == key(user) || key(user, two) == key(two, user) {
		t.Error("a second policy, or its place, makes no difference")
	}
	if key(user, user) == 0 {
		t.Error("equal policies cancel each other out")
	}
	if key(terminal, two) != key(user) {
		t.Error("a terminal policy with a hash does not end it")
	}
	if key(absent, user) != key(user) {
		t.Error("a terminal policy without any hash ends it")
	}
	if key(user, absent, two) != key(user) {
		t.Error("a terminal policy after a hash does not end it")
	}
}

func TestCookiesAreMadeWhereTheyAreAskedFor(t *testing.T) {
	policy := func(name string, c *connect.CookieConfig) connect.HashPolicy {
		return connect.HashPolicy{Field: "cookie", Value: name, Cookie: c}
	}
	for _, tc := range []struct {
		name     string
		policies []connect.HashPolicy
		want     string
	}{
		{"session", []connect.HashPolicy{policy("id", &connect.CookieConfig{Session: true, Path: "/x"})}, `id="v1"; Path=/x; HttpOnly`},
		{"ttl", []connect.HashPolicy{policy("id", &connect.CookieConfig{TTL: time.Hour})}, `id="v1"; Max-Age=3600; HttpOnly`},
		{"ttl below a second", []connect.HashPolicy{policy("id", &connect.CookieConfig{TTL: time.Millisecond})}, `id="v1"; Max-Age=1; HttpOnly`},
		{"session wins", []connect.HashPolicy{policy("id", &connect.CookieConfig{Session: true, TTL: time.Hour})}, `id="v1"; HttpOnly`},
		{"neither", []connect.HashPolicy{policy("id", &connect.CookieConfig{})}, ""},
		{"no configuration", []connect.HashPolicy{policy("id", nil)}, ""},
		{"the request has it", []connect.HashPolicy{policy("sid", &connect.CookieConfig{Session: true})}, ""},
		{"not a name", []connect.HashPolicy{policy("a;b", &connect.CookieConfig{Session: true})}, ""},
		{"path that ends the attribute", []connect.HashPolicy{policy("id", &connect.CookieConfig{Session: true, Path: "/;Domain=x"})}, `id="v1"; HttpOnly`},
		{"one for a request", []connect.HashPolicy{policy("id", &connect.CookieConfig{Session: true}), policy("id2", &connect.CookieConfig{Session: true})}, `id="v1"; HttpOnly`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fresh := func() string { return "v1" }
			key, ok, cookie := HashKey(tc.policies, hashHead(), none(), fresh)
			if cookie != tc.want {
				t.Errorf("got %q, want %q", cookie, tc.want)
			}
			if cookie == "" {
				return
			}
			// The next request brings the cookie and must go the same way.
			h := hashHead()
			h.Header["Cookie"] = append(h.Header["Cookie"], `id="v1"`)
			again, okAgain, second := HashKey(tc.policies[:1], h, none(), fresh)
			if !ok || !okAgain || again != key || second != "" {
				t.Errorf("next request: ok %v %v, key %x then %x, cookie %q", ok, okAgain, key, again, second)
			}
		})
	}
}

func TestHashSpreadsShortTextsOverTheHighBits(t *testing.T) {
	var buckets [16]int
	for i := range 1600 {
		buckets[hash64(string([]byte{byte('a' + i%26), byte('a' + i/26)}))>>60]++
	}
	for i, n := range buckets {
		if n < 50 || n > 150 {
			t.Errorf("bucket %d holds %d of 1600", i, n)
		}
	}
}
