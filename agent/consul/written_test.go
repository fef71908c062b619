// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func written(texts ...string) []Written {
	var out []Written
	for i, text := range texts {
		out = append(out, Written{File: string(rune('a'+i)) + ".json", JSON: []byte(text)})
	}
	return out
}

func readWritten(t *testing.T, texts ...string) *Entries {
	t.Helper()
	e, err := ReadEntries(written(texts...))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEntriesMayBeSpeltAsConsulTakesThem(t *testing.T) {
	t.Parallel()
	e := readWritten(t,
		`{"kind":"service-intentions","name":"api","sources":{"name":"web","permissions":[
			{"action":"allow","http":[{"path_prefix":"/a","methods":"get","header":[{"name":"x","present":true}]}]}]},"jwt":{"providers":[{"name":"okta"}]}}`,
		`{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"*","Action":"deny","Precedence":1,"Type":"consul","Description":"d"},{"Name":"web","Peer":"east","Action":"allow"}]}`,
		`{"Kind":"service-defaults","Name":"api","Protocol":"HTTP"}`,
		`{"Kind":"proxy-defaults","Name":"global","Config":[{"protocol":"grpc","local_connect_timeout_ms":1}]}`,
		`{"Kind":"mesh","HTTP":{"incoming":{"request_normalization":{"merge_slashes":true}}},"TLS":{"Incoming":{}}}`,
		`{"Kind":"jwt-provider","Name":"okta","Issuer":"i","JSONWebKeySet":{"Remote":{"URI":"https://a/b","UseSNI":true}},"CacheConfig":{"Size":1}}`,
		`{"Kind":"service-router","Name":"api"}`,
	)
	api, err := e.Policy("api")
	if err != nil {
		t.Fatal(err)
	}
	okta := &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta"}}}
	local := func(name string) connect.Source {
		return connect.Source{Partition: "default", Namespace: "default", Name: name}
	}
	fromEast := local("web")
	fromEast.Peer = "east"
	want := Policy{
		Rules: []connect.Intention{
			{Source: local("web"), Destination: "api", Namespace: "default", Precedence: 9, JWT: okta, Permissions: []connect.Permission{{Action: connect.Allow, HTTP: connect.RequestMatch{
				Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a"}, Methods: []string{"GET"}, Headers: []connect.HeaderMatch{{Name: "x", Kind: connect.MatchPresent}},
			}}}},
			{Source: local("*"), Destination: "*", Namespace: "default", Precedence: 5},
			{Source: fromEast, Destination: "*", Namespace: "default", Precedence: 6, Action: connect.Allow},
		},
		DefaultFrom: "nothing says otherwise", Protocol: connect.HTTP, Normalization: connect.Normalization{MergeSlashes: true},
		Providers: map[string]connect.JWTProvider{"okta": {Name: "okta", Issuer: "i", ClockSkew: defaultClockSkew}},
	}
	if diff := cmp.Diff(want, api); diff != "" {
		t.Errorf("policy of api (-want +got):\n%s", diff)
	}
	if db, err := e.Policy("db"); err != nil || db.Protocol != connect.GRPC || len(db.Rules) != 2 {
		t.Errorf("policy of db: %+v, %v", db, err)
	}
	if diff := cmp.Diff([]string{"g.json: passed over: a service-router does not decide on who may call"}, e.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"*", "api"}, e.Destinations()); diff != "" {
		t.Errorf("destinations (-want +got):\n%s", diff)
	}
}

// A name that is passed over may be the one that narrows what is allowed.
func TestEntriesAreReadStrictly(t *testing.T) {
	t.Parallel()
	intentions := func(rest string) string { return `{"Kind":"service-intentions","Name":"api",` + rest + `}` }
	for name, tc := range map[string]struct{ text, want string }{
		"no kind":                {`{"Name":"api"}`, "it has no Kind"},
		"no object":              {`[]`, "a.json"},
		"unknown name":           {intentions(`"Sauces":[]`), "Sauces is not known: there are"},
		"unknown matcher":        {intentions(`"Sources":[{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/","Querry":"x"}}]}]`), "Sources[0].Permissions[0].HTTP.Querry is not known"},
		"two spellings":          {intentions(`"sources":[],"Sources":[]`), "two spellings"},
		"a text for a block":     {intentions(`"Sources":"web"`), "Sources[0] must be a block"},
		"no sources":             {intentions(`"Meta":{}`), "it has no Sources"},
		"no action":              {intentions(`"Sources":[{"Name":"a"}]`), `action is ""`},
		"action and permissions": {intentions(`"Sources":[{"Name":"a","Action":"allow","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]`), "Consul allows only one"},
		"a source twice":         {intentions(`"Sources":[{"Name":"a","Action":"allow"},{"Name":"a","Action":"deny"}]`), "twice"},
		"a part of a name":       {intentions(`"Sources":[{"Name":"a*","Action":"allow"}]`), "not for a part"},
		"a group":                {intentions(`"Sources":[{"Name":"a","SamenessGroup":"g","Action":"allow"}]`), "sameness group"},
		"a namespace":            {intentions(`"Namespace":"team","Sources":[{"Name":"a","Action":"allow"}]`), "only the default ones"},
		"permissions for all":    {`{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`, "which Consul does not take"},
		"a bad expression":       {intentions(`"Sources":[{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathRegex":"("}}]}]`), "RE2"},
		"defaults":               {`{"Kind":"service-defaults","Name":"api","Protocoll":"http"}`, "Protocoll is not known"},
		"mesh":                   {`{"Kind":"mesh","HTTP":{"Incoming":{"RequestNormalization":{"PathWithEscapedSlashesAction":"X"}}}}`, "not known"},
		"provider":               {`{"Kind":"jwt-provider","Name":"okta","Isuer":"x"}`, "Isuer is not known"},
		"provider, deeper":       {`{"Kind":"jwt-provider","Name":"okta","Issuer":"x","Locations":[{"Haeder":{"Name":"x"}}]}`, "Locations[0].Haeder is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadEntries(written(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	if _, err := ReadEntries(written(`{"Kind":"mesh"}`, `{"Kind":"mesh"}`)); err == nil || !strings.Contains(err.Error(), "in a.json already") {
		t.Errorf("one entry twice: %v", err)
	}
}

func TestPermissionsWithoutHTTPAreNoted(t *testing.T) {
	t.Parallel()
	e := readWritten(t, `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"a","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	if diff := cmp.Diff([]string{"api has the protocol tcp, with which Consul refuses Permissions: set Protocol in its service-defaults"}, e.Refused()); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

func TestPrecedenceIsConsuls(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		source, namespace, destination string
		want                           int
	}{
		{"web", "", "api", 9}, {"*", "", "api", 8}, {"*", "*", "api", 7}, {"web", "", "*", 6}, {"*", "", "*", 5}, {"*", "*", "*", 4},
	} {
		if got := precedence(writtenSource{Name: tc.source, Namespace: tc.namespace}, tc.destination); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

func TestEntryTakesThePlaceOfAllRulesOfItsDestination(t *testing.T) {
	t.Parallel()
	before := readWritten(t,
		`{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Action":"allow"},{"Name":"shop","Action":"allow"}]}`,
		`{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"shop","Action":"deny"},{"Name":"*","Action":"deny"}]}`)
	current, err := before.Policy("api")
	if err != nil {
		t.Fatal(err)
	}
	names := func(rules []connect.Intention) (out []string) {
		for _, r := range rules {
			out = append(out, r.String()+" "+r.Action.String())
		}
		return out
	}
	next := readWritten(t, `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Action":"deny"}]}`)
	after, lost, err := next.Replace("api", current.Rules)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"web → api deny", "shop → * deny", "* → * deny"}, names(after)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if len(lost) != 1 || lost[0].Name != "shop" {
		t.Errorf("lost %+v", lost)
	}
	all := readWritten(t, `{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"*","Action":"allow"}]}`)
	after, lost, err = all.Replace("api", current.Rules)
	if err != nil || lost != nil {
		t.Errorf("lost %v, %v", lost, err)
	}
	if diff := cmp.Diff([]string{"* → * allow", "web → api allow", "shop → api allow"}, names(after)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}
