// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

const (
	eastDomain = "99999999-2222-3333-4444-555555555555.consul"
	ourGateway = "spiffe://" + meshca.TrustDomain + "/gateway/mesh/dc/dc1"
	eastWeb    = "spiffe://" + eastDomain + "/ns/default/dc/dc9/svc/web"
)

// eastPeer is peer "east" with the roots of a CA.
func eastPeer(t testing.TB, ca *meshca.CA) connect.Peer {
	t.Helper()
	b, err := connect.NewTrustBundle(eastDomain, []connect.Root{{ID: "east", Certificates: []*x509.Certificate{ca.Cert}}})
	if err != nil {
		t.Fatal(err)
	}
	return connect.Peer{Name: "east", Partition: "default", Bundle: b}
}

func peerIntention(src string, action connect.Action) connect.Intention {
	i := intention(src, action)
	i.Source.Peer = "east"
	return i
}

// element is what Envoy as a mesh gateway says of a caller.
func element(by, uri string) string {
	return `By=` + by + `;Hash=aa;Cert="-----BEGIN%20CERTIFICATE-----%0A";Chain="x%3D";Subject="CN=a,O=\"b;URI=spiffe://x\"";URI=` + uri
}

func TestOneElementIsReadAndWhatMayBeReadTwoWaysIsNot(t *testing.T) {
	good := element(ourGateway, eastWeb)
	for text, want := range map[string]string{
		good:                                  eastWeb,
		"uri=a;BY=b":                          "a",
		`By="b";URI="a;c"`:                    "a;c",
		`By=b;URI="a\"c"`:                     `a"c`,
		"By=b;URI=a;DNS=x;DNS=y":              "a",
		"":                                    "",
		"URI=a":                               "",
		"By=b":                                "",
		"By=b;URI=":                           "",
		"By=;URI=a":                           "",
		"By=b;URI=a;URI=c":                    "",
		"By=b;By=c;URI=a":                     "",
		"By=b;URI=a,By=b;URI=c":               "",
		"By=b;URI=a,":                         "",
		"By=b;URI=a;":                         "",
		";By=b;URI=a":                         "",
		",By=b;URI=a":                         "",
		"By=b; URI=a":                         "",
		"By=b;URI=a c":                        "",
		"By=b;URI=a=c":                        "",
		`By=b;URI=a"c`:                        "",
		`By=b;URI="a`:                         "",
		`By=b;URI="a\`:                        "",
		`By=b;URI="a"c`:                       "",
		`By=b;URI="a",By=b;URI=c`:             "",
		`By=b;Subject="x,By=b;URI=lie";URI=a`: "a",
		`By=b;Subject="x\";URI=lie;";URI=a`:   "a",
		"By=b;Extra=x;URI=a":                  "",
		"By=b;URI":                            "",
		"=x;By=b;URI=a":                       "",
	} {
		got, err := parseVouch(text)
		if got.uri != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", text, got.uri, err, want)
		}
	}
}

func FuzzVouch(f *testing.F) {
	f.Add(element(ourGateway, eastWeb))
	f.Add(`By=b;URI="a\"c";Subject=""`)
	f.Add("By=b;URI=a,By=b;URI=c")
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseVouch(text)
		if err != nil {
			if v != (vouch{}) {
				t.Fatalf("%q: %+v beside %v", text, v, err)
			}
			return
		}
		// Whoever reads it by cutting at every comma and semicolon outside quotes
		// finds the same.
		uris := 0
		for _, pair := range outside(text, ";,") {
			key, value, _ := strings.Cut(pair, "=")
			if strings.EqualFold(key, "uri") {
				if uris++; !strings.HasPrefix(value, `"`) && value != v.uri {
					t.Fatalf("%q: %q and %q", text, v.uri, value)
				}
			}
		}
		if uris != 1 || len(outside(text, ",")) != 1 || v.by == "" || v.uri == "" {
			t.Fatalf("%q was read as %+v", text, v)
		}
	})
}

// outside cuts text at the characters of seps that are not quoted.
func outside(text, seps string) []string {
	var out []string
	quoted, from := false, 0
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			quoted = !quoted
		case text[i] == '\\' && quoted:
			i++
		case !quoted && strings.IndexByte(seps, text[i]) >= 0:
			out = append(out, text[from:i])
			from = i + 1
		}
	}
	return append(out, text[from:])
}

func TestAGatewayVouchesForCallersOfPeersOnly(t *testing.T) {
	ca := meshca.NewIn("east", eastDomain)
	east, twin, team := eastPeer(t, ca), eastPeer(t, ca), eastPeer(t, ca)
	twin.Name, team.Name, team.Partition = "twin", "team", "team"
	ended := east
	ended.Problem = "ended"
	g := connect.Gateway{TrustDomain: meshca.TrustDomain, Partition: "default", Datacenter: "dc1"}
	for name, tc := range map[string]struct {
		values []string
		peers  []connect.Peer
		fails  string
	}{
		"a caller of the peer":          {[]string{element(ourGateway, eastWeb)}, []connect.Peer{east}, ""},
		"another peer of a partition":   {[]string{element(ourGateway, eastWeb)}, []connect.Peer{team, east}, ""},
		"nothing":                       {nil, []connect.Peer{east}, "has to be there once"},
		"twice":                         {[]string{element(ourGateway, eastWeb), element(ourGateway, eastWeb)}, []connect.Peer{east}, "has to be there once"},
		"two elements":                  {[]string{element(ourGateway, eastWeb) + "," + element(ourGateway, eastWeb)}, []connect.Peer{east}, "more than one element"},
		"made by another gateway":       {[]string{element(strings.Replace(ourGateway, "dc1", "dc2", 1), eastWeb)}, []connect.Peer{east}, "not by the gateway"},
		"made by a service":             {[]string{element(meshca.ID("api").String(), eastWeb)}, []connect.Peer{east}, "By"},
		"our own service":               {[]string{element(ourGateway, meshca.ID("web").String())}, []connect.Peer{east}, "has to prove itself"},
		"a gateway as the caller":       {[]string{element(ourGateway, "spiffe://"+eastDomain+"/gateway/mesh/dc/dc9")}, []connect.Peer{east}, "not that of a service"},
		"another trust domain":          {[]string{element(ourGateway, strings.Replace(eastWeb, eastDomain, "x.consul", 1))}, []connect.Peer{east}, "of no peer"},
		"another partition":             {[]string{element(ourGateway, strings.Replace(eastWeb, "/ns", "/ap/x/ns", 1))}, []connect.Peer{east}, "of no peer"},
		"a peer that has ended":         {[]string{element(ourGateway, eastWeb)}, []connect.Peer{ended}, "of no peer"},
		"no peer":                       {[]string{element(ourGateway, eastWeb)}, nil, "of no peer"},
		"two peers of one trust domain": {[]string{element(ourGateway, eastWeb)}, []connect.Peer{east, twin}, "which have one trust domain"},
		"not a URI":                     {[]string{element(ourGateway, "spiffe://%zz")}, []connect.Peer{east}, "not a URI"},
	} {
		t.Run(name, func(t *testing.T) {
			h := connect.Header{}
			if tc.values != nil {
				h[xfcc] = tc.values
			}
			id, err := vouchedBy(g, mtls.Callers{Own: meshca.Bundle(meshca.New("own")), Peers: tc.peers, Gateways: true}, h)
			if tc.fails == "" {
				if err != nil || id.Peer != "east" || id.Service != "web" {
					t.Errorf("%+v, %v", id, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.fails) || id != (connect.Identity{}) {
				t.Errorf("%+v, %v, want %q", id, err, tc.fails)
			}
		})
	}
}

// caller speaks HTTP/1.1 to api's inbound listener with a certificate.
func (r *httpPair) caller(t testing.TB, leaf *connect.Leaf) *http.Client {
	t.Helper()
	cfg := mtls.Client(leaf, meshca.Bundle(r.ca), connect.TLSLimits{}, "", []string{meshca.ID("api").String()}, "http/1.1")
	transport := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (r *httpPair) inbound(t testing.TB, path string) string {
	return "https://" + r.api.Inbound(t.Context()).String() + path
}

// peered is api that lets in web of peer east under /a, and everybody else not.
func peered(t testing.TB, protocol connect.Protocol, h http.Handler) (*httpPair, *meshca.CA) {
	t.Helper()
	r, east := newHTTPPair(t, protocol, h), meshca.NewIn("east", eastDomain)
	rule := peerIntention("web", connect.Deny)
	rule.Permissions = []connect.Permission{allowPrefix("/a")}
	r.apiSnap = next(r.apiSnap, func(s *connect.Snapshot) {
		s.DefaultAction, s.Intentions = connect.Deny, []connect.Intention{rule}
		s.Peers = map[string]connect.Peer{"east": eastPeer(t, east)}
	})
	apply(t, r.api, r.apiSnap)
	return r, east
}

// The header is an authorisation path: whoever else sends it is nobody but
// himself.
func TestOnlyOurGatewayIsBelievedWhenItVouches(t *testing.T) {
	for _, protocol := range protocols() {
		r, east := peered(t, protocol, http.HandlerFunc(mirror))
		gateway := r.ca.Leaf("gw", nil, meshca.URIs(ourGateway))
		good := element(ourGateway, eastWeb)
		for name, tc := range map[string]struct {
			leaf   *connect.Leaf
			path   string
			header []string
			status int
			reason connect.Reason
		}{
			"the gateway":                      {gateway, "/a", []string{good}, 200, ""},
			"the gateway, another path":        {gateway, "/b", []string{good}, 403, connect.IntentionDenied},
			"the gateway, a path in disguise":  {gateway, "/a/../b", []string{good}, 403, connect.IntentionDenied},
			"the gateway, another service":     {gateway, "/a", []string{element(ourGateway, strings.Replace(eastWeb, "/web", "/shop", 1))}, 403, connect.IntentionDenied},
			"the gateway without a word":       {gateway, "/a", nil, 403, connect.IdentityMismatch},
			"the gateway for our own":          {gateway, "/a", []string{element(ourGateway, meshca.ID("web").String())}, 403, connect.IdentityMismatch},
			"the gateway for two":              {gateway, "/a", []string{good, good}, 403, connect.IdentityMismatch},
			"another gateway":                  {r.ca.Leaf("gw", nil, meshca.URIs(strings.Replace(ourGateway, "dc1", "dc2", 1))), "/a", []string{good}, 403, connect.IdentityMismatch},
			"a service of ours":                {r.ca.Leaf("web", nil), "/a", []string{good}, 403, connect.IntentionDenied},
			"a service of ours called gateway": {r.ca.Leaf("gw", nil, meshca.URIs(strings.Replace(ourGateway, "/gateway", "/ns/default/dc/dc1/svc/gateway", 1))), "/a", []string{good}, 0, ""},
			"the peer's service itself":        {east.Leaf("web", nil, meshca.URIs(eastWeb)), "/a", []string{good}, 0, ""},
			"the peer's gateway":               {east.Leaf("gw", nil, meshca.URIs(strings.Replace(ourGateway, meshca.TrustDomain, eastDomain, 1))), "/a", []string{good}, 0, ""},
			"the peer as our gateway":          {east.Leaf("gw", nil, meshca.URIs(ourGateway)), "/a", []string{good}, 0, ""},
		} {
			t.Run(string(protocol)+"/"+name, func(t *testing.T) {
				req := newRequest(t, http.MethodGet, r.inbound(t, tc.path), nil)
				for _, v := range tc.header {
					req.Header.Add("X-Forwarded-Client-Cert", v)
				}
				req.URL.Opaque = strings.Replace(req.URL.String(), "https:", "", 1) // as it is, dots and all
				resp, err := r.caller(t, tc.leaf).Do(req)
				if tc.status == 0 {
					if err == nil {
						t.Errorf("let in: %s", resp.Status)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				if reason := resp.Header.Get("X-Outrider-Reason"); resp.StatusCode != tc.status || reason != string(tc.reason) {
					t.Errorf("%s, reason %q; want %d, %q", resp.Status, reason, tc.status, tc.reason)
				}
			})
		}
	}
}

// A service that no intention of names a peer has nothing to do with gateways.
func TestGatewaysAreNobodyWithoutIntentionsOnPeers(t *testing.T) {
	r, _ := peered(t, connect.HTTP, http.HandlerFunc(mirror))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
		s.DefaultAction, s.Intentions = connect.Allow, nil
	}))
	req := newRequest(t, http.MethodGet, r.inbound(t, "/a"), nil, "X-Forwarded-Client-Cert", element(ourGateway, eastWeb))
	if resp, err := r.caller(t, r.ca.Leaf("gw", nil, meshca.URIs(ourGateway))).Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("let in: %s", resp.Status)
	}
	// The caller may hear of it first.
	until(t, "the refusal is counted", func() bool { return refused(t, r.api, connect.IdentityMismatch) > 0 })
}

// What a gateway carries is judged again when intentions, or peers, change.
func TestRequestsThroughAGatewayEndWithTheirPermission(t *testing.T) {
	for name, change := range map[string]func(*connect.Snapshot){
		"intention withdrawn": func(s *connect.Snapshot) { s.Intentions = nil },
		"peering ended": func(s *connect.Snapshot) {
			s.Peers = map[string]connect.Peer{"east": {Name: "east", Partition: "default", Problem: "ended"}}
		},
		"trust domain changed hands": func(s *connect.Snapshot) {
			p := s.Peers["east"]
			p.Name = "other"
			s.Peers = map[string]connect.Peer{"other": p}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := peered(t, connect.HTTP, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "begun\n")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			client := r.caller(t, r.ca.Leaf("gw", nil, meshca.URIs(ourGateway)))
			resp, err := client.Do(newRequest(t, http.MethodGet, r.inbound(t, "/a"), nil, "X-Forwarded-Client-Cert", element(ourGateway, eastWeb)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			lines := bufio.NewReader(resp.Body)
			if line, err := lines.ReadString('\n'); err != nil || line != "begun\n" {
				t.Fatalf("%q, %v", line, err)
			}
			apply(t, r.api, next(r.apiSnap, change))
			if _, err := lines.ReadString('\n'); err == nil || timedOut(err) {
				t.Errorf("the request goes on: %v", err)
			}
		})
	}
}

// Over TCP callers of peers prove themselves, end to end.
func TestCallersOfPeersAreLetInOverTCPWithTheirOwnCertificate(t *testing.T) {
	r, east := newPair(t, DefaultLimits()), meshca.NewIn("east", eastDomain)
	allowed := next(r.apiSnap, func(s *connect.Snapshot) {
		s.DefaultAction, s.Intentions = connect.Deny, []connect.Intention{peerIntention("web", connect.Allow)}
		s.Peers = map[string]connect.Peer{"east": eastPeer(t, east)}
	})
	apply(t, r.api, allowed)
	talk := func(leaf *connect.Leaf) (*tls.Conn, error) {
		c, err := r.as(t, leaf)
		if err == nil {
			err = roundTrip(c, "hello")
		}
		return c, err
	}
	open, err := talk(east.Leaf("web", nil, meshca.URIs(eastWeb)))
	if err != nil {
		t.Fatal(err)
	}
	for name, leaf := range map[string]*connect.Leaf{
		"another service of the peer": east.Leaf("shop", nil, meshca.URIs(strings.Replace(eastWeb, "/web", "/shop", 1))),
		"our service of that name":    r.ca.Leaf("web", nil),
		"our gateway":                 r.ca.Leaf("gw", nil, meshca.URIs(ourGateway)),
		"the peer as ourselves":       east.Leaf("web", nil),
	} {
		if _, err := talk(leaf); err == nil {
			t.Errorf("%s was let in", name)
		}
	}
	apply(t, r.api, next(allowed, func(s *connect.Snapshot) { s.Peers = nil }))
	closed(t, open)
	if text := fmt.Sprint(r.api.Status(t.Context()).Recent); !strings.Contains(text, "source east/web") {
		t.Errorf("refusals %s", text)
	}
}

// What a target's endpoints must prove is part of what a connection is kept for.
func TestConnectionsToAnotherIdentityAreNotKept(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	as := func(identity string) *connect.Snapshot {
		return next(r.webSnap, func(s *connect.Snapshot) {
			chain := *s.Chains["api"]
			target := chain.Targets["api0"]
			target.Query, target.Identities = true, []string{identity}
			chain.Targets = map[connect.TargetID]connect.Target{"api0": target}
			s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &chain}
		})
	}
	apply(t, r.web, as(meshca.ID("api").String()))
	if got := r.get(t, "/"); got.status != 200 {
		t.Fatalf("status %d", got.status)
	}
	u, _ := url.Parse(eastWeb)
	apply(t, r.web, as(u.String()))
	if got := r.get(t, "/"); got.status != 503 || got.header.Get("X-Outrider-Reason") != string(connect.IdentityMismatch) {
		t.Errorf("status %d, %v: the connection before was used", got.status, got.header)
	}
}
