// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// onlyPublic allows one prefix and denies the rest; noAdmin is the reverse.
func onlyPublic(s *connect.Snapshot) {
	s.DefaultAction, s.Intentions = connect.Deny, permissions(allowPrefix("/public/"))
}

func noAdmin(s *connect.Snapshot) {
	admin := allowPrefix("/admin")
	admin.Action = connect.Deny
	s.DefaultAction, s.Intentions = connect.Allow, permissions(admin)
}

// ask sends one request as a proved peer and returns the status of the answer
// and the request that the application got, "" for none.
func (r *attacked) ask(t *testing.T, request string) (status string, got arrival) {
	t.Helper()
	c := r.fromPeer(t)
	_, _ = io.WriteString(c, request)
	status = statuses(c, 5*time.Second)
	arrivals, problems := r.app.take()
	if len(problems) > 0 || len(arrivals) > 1 {
		t.Fatalf("the application read %v, %q", arrivals, problems)
	}
	if len(arrivals) == 1 {
		got = arrivals[0]
	}
	return status, got
}

func getOf(target string, fields ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: api\r\n" + strings.Join(append(fields, ""), "\r\n") + "Connection: close\r\n\r\n"
}

// normalized are the settings of the mesh entry that paths are tried with.
func normalized() map[string]connect.Normalization {
	return map[string]connect.Normalization{
		"default": {},
		"merge":   {MergeSlashes: true},
		"reject":  {EscapedSlashes: connect.SlashReject},
		"forward": {EscapedSlashes: connect.SlashForward, MergeSlashes: true},
		"keep":    {KeepPath: true},
	}
}

// Each line: a path as it is sent, then what comes of it where only /public/ is
// allowed, where only /admin is denied, and under which settings where it is not
// under all of them. What comes of it is a status, or the path that reaches the
// application.
const traversals = `
/public/a                    /public/a                   /public/a
/admin                       403                         403
/admin?/public/              403                         403
/public/?/../../admin        /public/?/../../admin       /public/?/../../admin
/public/?x=%2e%2e%2fadmin    /public/?x=%2e%2e%2fadmin   /public/?x=%2e%2e%2fadmin
/public                      403                         /public
/PUBLIC/a                    403                         /PUBLIC/a
/ADMIN                       403                         /ADMIN
/admin;x=y                   403                         403
/public#/admin               400                         400
/admin%00                    400                         400
/public/%                    400                         400
/public/%zz                  400                         400
http://api/admin             403                         403
http://api                   403                         /
/public/%c0%ae%c0%ae/admin   /public/%c0%ae%c0%ae/admin  /public/%c0%ae%c0%ae/admin
/public/..%252fadmin         /public/..%252fadmin        /public/..%252fadmin
/%2561dmin                   403                         /%2561dmin

/%61dmin                     403                         403                       default merge forward reject
/%61dmin                     403                         /%61dmin                  keep
/./admin                     403                         403                       default merge forward reject
/%2e/admin                   403                         403                       default merge forward reject
/admin/.                     403                         403                       default merge forward reject
/admin/../public/a           /public/a                   /public/a                 default merge forward reject
/public/../admin             403                         403                       default merge forward reject
/public/%2e%2e/admin         403                         403                       default merge forward reject
/public/.%2E/admin           403                         403                       default merge forward reject
/public/..                   403                         /                         default merge forward reject
/../../admin                 403                         403                       default merge forward reject
http://api/public/../admin   403                         403                       default merge forward reject
/public/..;/admin            /public/..;/admin           /public/..;/admin
/public/..;a=b/admin         /public/..;a=b/admin        /public/..;a=b/admin

//admin                      403                         //admin                   default reject keep
//admin                      403                         403                       merge forward
/x/..//admin                 403                         //admin                   default reject
/x/..//admin                 403                         403                       merge forward
//public/a                   403                         //public/a                default reject keep
//public/a                   /public/a                   /public/a                 merge forward
/public//../admin            /public/admin               /public/admin             default merge forward reject

/public/..%2fadmin           /public/..%2fadmin          /public/..%2fadmin        default merge keep
/public/..%2fadmin           400                         400                       reject
/public/..%2Fadmin           403                         403                       forward
/public/%2e%2e%2fadmin       /public/..%2fadmin          /public/..%2fadmin        default merge
/public/%2e%2e%2fadmin       403                         403                       forward
/admin%2f                    403                         403                       default merge forward keep
/admin%2f                    400                         400                       reject
/%2fadmin                    403                         /%2fadmin                 default merge keep
/%2fadmin                    403                         403                       forward
/%5cadmin                    403                         /%5cadmin                 default merge keep
/%5cadmin                    403                         403                       forward
/public/..\admin             403                         403                       default merge forward reject
/public/\..\admin            /public/admin               /public/admin             default merge forward reject
/public/..%5cadmin           /public/..%5cadmin          /public/..%5cadmin        default merge keep
/public/..%5cadmin           403                         403                       forward
`

// What was judged is what is sent on, to the letter.
func TestPathsThatPretendAreJudgedAsTheyAreSentOn(t *testing.T) {
	for _, policy := range []struct {
		name  string
		apply func(*connect.Snapshot)
		field int
	}{{"only public", onlyPublic, 1}, {"no admin", noAdmin, 2}} {
		for name, n := range normalized() {
			r := newAttacked(t, func(s *connect.Snapshot) {
				policy.apply(s)
				s.Mesh.Normalization = n
			})
			for line := range strings.Lines(traversals) {
				f := strings.Fields(line)
				if len(f) == 0 || (len(f) > 3 && !strings.Contains(strings.Join(f[3:], " "), name)) {
					continue
				}
				status, got := r.ask(t, getOf(f[0]))
				outcome := got.target
				if status != "200" {
					outcome = status + outcome
				}
				if outcome != f[policy.field] {
					t.Errorf("%s, %s: %s: %s, want %s", policy.name, name, f[0], outcome, f[policy.field])
				}
			}
		}
	}
}

func TestEscapedSlashesAreRedirectedWithinTheHost(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
		s.Mesh.Normalization.EscapedSlashes = connect.SlashRedirect
	}))
	for path, want := range map[string]string{"/a%2fb?c=%2f": "/a/b?c=%2f", "/%2fevil.example/": "/.//evil.example/", "/%5cevil.example/": "/.//evil.example/"} {
		got := r.get(t, path)
		if got.status != http.StatusTemporaryRedirect || got.header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", path, got.status, got.header.Get("Location"), want)
		}
	}
}

// A permission may ask for a field. Clients have ways to send one that does not
// arrive, or one that arrives by another name.
func TestFieldsAreJudgedAsTheyAreSentOn(t *testing.T) {
	requires := func(name, value string) []connect.Intention {
		return permissions(connect.Permission{Action: connect.Allow, HTTP: connect.RequestMatch{
			Headers: []connect.HeaderMatch{{Name: name, Kind: connect.MatchExact, Value: value}},
		}})
	}
	for _, tc := range []struct {
		name    string
		field   string
		header  []string
		under   connect.UnderscoreAction
		status  string
		arrives []string
	}{
		{"as asked for", "X-Safe", []string{"X-Safe: on"}, "", "200", []string{"on"}},
		{"missing", "X-Safe", nil, "", "403", nil},
		{"named as of the connection", "X-Safe", []string{"X-Safe: on", "Connection: x-safe"}, "", "403", nil},
		{"named as of the connection, in a list", "X-Safe", []string{"X-Safe: on", "Connection: close , X-SAFE"}, "", "403", nil},
		{"twice", "X-Safe", []string{"X-Safe: on", "X-Safe: off"}, "", "403", nil},
		{"folded", "X-Safe", []string{"X-Safe:", " on"}, "", "200", []string{"on"}},
		{"of the connection by itself", "Keep-Alive", []string{"Keep-Alive: on"}, "", "403", nil},
		{"with an underscore", "X-Safe", []string{"X_Safe: on"}, "", "403", nil},
		{"with an underscore that is dropped", "X-Safe", []string{"X-Safe: on", "X_Safe: off"}, connect.UnderscoreDrop, "200", []string{"on"}},
		{"with an underscore that is refused", "X-Safe", []string{"X-Safe: on", "X_Safe: off"}, connect.UnderscoreReject, "400", nil},
		{"host of the target", ":authority", []string{"X: y"}, "", "403", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newAttacked(t, func(s *connect.Snapshot) {
				s.DefaultAction, s.Intentions, s.Mesh.Normalization.Underscores = connect.Deny, requires(tc.field, "on"), tc.under
			})
			status, got := r.ask(t, getOf("/", tc.header...))
			if status != tc.status {
				t.Errorf("status %s, want %s", status, tc.status)
			}
			if have := got.field(tc.field); fmt.Sprint(have) != fmt.Sprint(tc.arrives) {
				t.Errorf("the application got %q, want %q", have, tc.arrives)
			}
			if tc.under != "" && len(got.field("X_Safe")) > 0 {
				t.Error("the field with an underscore arrived")
			}
		})
	}
}
