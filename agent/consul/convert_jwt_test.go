// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestRecordedProvidersAreReadWhole(t *testing.T) {
	got, err := convertJWTProviders(recorded[[]wireJWTProvider](t, "jwt-providers.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]JWTSource{
		"okta": {
			Provider: connect.JWTProvider{
				Name: "okta", Issuer: "https://okta.example", Audiences: []string{"web", "api"}, ClockSkew: 10 * time.Second,
				Locations: []connect.TokenLocation{{Header: "Authorization", ValuePrefix: "Bearer ", Keep: true}, {Query: "tok"}, {Cookie: "c"}},
				Forward:   connect.TokenForward{Header: "x-jwt-payload", Pad: true},
			},
			Remote: &RemoteKeys{
				URI: "https://okta.example/keys", Timeout: 1500 * time.Millisecond, ConnectTimeout: 10 * time.Second, CacheFor: 5 * time.Minute,
				Async: true, Retries: 3, Backoff: time.Second, MaxBackoff: 10 * time.Second, CAFile: "/etc/ssl/okta.pem",
			},
		},
		"local": {Provider: connect.JWTProvider{Name: "local", Issuer: "me", ClockSkew: 30 * time.Second, Keys: `{"keys":[]}`}},
		"file":  {Provider: connect.JWTProvider{Name: "file", Issuer: "me", ClockSkew: 30 * time.Second}, KeysFile: "/etc/jwks.json"},
		"empty": {Provider: connect.JWTProvider{Name: "empty", Problem: "its config entry cannot be used: its local keys are not a JSON Web Key Set"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("providers (-want +got):\n%s", diff)
	}
}

func TestAProviderThatCannotBeUsedSaysWhyAndLeavesTheOthersAlone(t *testing.T) {
	const local = `"JSONWebKeySet":{"Local":{"JWKS":"eyJrZXlzIjpbXX0="}}`
	remote := func(more string) string {
		return `"JSONWebKeySet":{"Remote":{"URI":"https://keys.example/a"` + more + `}}`
	}
	for _, tt := range []struct{ json, problem string }{
		{local, ""},
		{remote(``), ""},
		{remote(`,"JWKSCluster":{"TLSCertificates":{"TrustedCA":{"InlineBytes":"Zm9v"}}}`), ""},
		{`"Issuer":"x"`, "either local or remote keys"},
		{`"JSONWebKeySet":{}`, "either local or remote keys"},
		{`"JSONWebKeySet":{"Local":{"Filename":"/x"},"Remote":{"URI":"https://a"}}`, "either local or remote keys"},
		{`"JSONWebKeySet":{"Local":{}}`, "either as text or as a file"},
		{`"JSONWebKeySet":{"Local":{"JWKS":"e30=","Filename":"/x"}}`, "either as text or as a file"},
		{`"JSONWebKeySet":{"Local":{"JWKS":"!"}}`, "not base64"},
		{`"JSONWebKeySet":{"Local":{"JWKS":"eyJrZXlzIjoic2VjcmV0In0="}}`, "not a JSON Web Key Set"},
		{`"JSONWebKeySet":{"Remote":{"URI":"file:///etc/passwd"}}`, "not that of an http or https server"},
		{`"JSONWebKeySet":{"Remote":{"URI":"https://user:secret@"}}`, "not that of an http or https server"},
		{`"JSONWebKeySet":{"Remote":{"URI":"https://secret host/"}}`, "not that of an http or https server"},
		{remote(`,"RequestTimeoutMs":-1`), "RequestTimeoutMs: -1"},
		{remote(`,"CacheDuration":-1`), "CacheDuration"},
		{remote(`,"RetryPolicy":{"NumRetries":-1}`), "NumRetries is -1"},
		{remote(`,"RetryPolicy":{"RetryPolicyBackOff":{"BaseInterval":"x"}}`), "BaseInterval"},
		{remote(`,"RetryPolicy":{"RetryPolicyBackOff":{"MaxInterval":-5}}`), "MaxInterval"},
		{remote(`,"JWKSCluster":{"ConnectTimeout":"x"}`), "ConnectTimeout"},
		{remote(`,"JWKSCluster":{"TLSCertificates":{"CaCertificateProviderInstance":{"InstanceName":"a"}}}`), "a part of Envoy"},
		{remote(`,"JWKSCluster":{"TLSCertificates":{"TrustedCA":{}}}`), "names 0 sources"},
		{remote(`,"JWKSCluster":{"TLSCertificates":{"TrustedCA":{"Filename":"a","InlineString":"b"}}}`), "names 2 sources"},
		{local + `,"Locations":[{}]`, "location 1: it must be"},
		{local + `,"Locations":[{"Cookie":{"Name":"a"},"QueryParam":{"Name":"b"}}]`, "location 1: it must be"},
		{local + `,"Locations":[{"QueryParam":{"Name":"a"}},{"Header":{"Name":"a b"}}]`, "location 2: its name"},
		{local + `,"Locations":[{"Cookie":{"Name":""}}]`, "location 1: its name"},
		{local + `,"Forwarding":{"HeaderName":""}`, "forwarding"},
		{local + `,"ClockSkewSeconds":9999999999`, "ClockSkewSeconds"},
		{local + `,"Audiences":["` + strings.Repeat("x", maxText+1) + `"]`, "a text of 8193 bytes"},
	} {
		list := fmt.Sprintf(`[{"Kind":"jwt-provider","Name":"other",%s},{"Kind":"jwt-provider","Name":"x",%s}]`, local, tt.json)
		got, err := convertJWTProviders(decode[[]wireJWTProvider](t, list))
		if err != nil {
			t.Fatal(err)
		}
		x := got["x"]
		if !strings.Contains(x.Provider.Problem, tt.problem) || (tt.problem == "") != (x.Provider.Problem == "") {
			t.Errorf("%s: problem %q, want %q", tt.json, x.Provider.Problem, tt.problem)
		}
		if tt.problem != "" && (x.Provider.Keys != "" || x.Remote != nil || x.KeysFile != "") {
			t.Errorf("%s: %+v could verify a token", tt.json, x)
		}
		if strings.Contains(x.Provider.Problem, "secret") {
			t.Errorf("%s: %q tells a secret", tt.json, x.Provider.Problem)
		}
		if got["other"].Provider.Keys == "" {
			t.Errorf("%s: the other provider is gone", tt.json)
		}
	}
}

func TestProviderListsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, tt := range []struct{ json, fails string }{
		{`[{"Kind":"mesh","Name":"x"}]`, `kind "mesh"`},
		{`[{"Kind":"jwt-provider"}]`, `name ""`},
		{`[{"Kind":"jwt-provider","Name":"x"},{"Kind":"jwt-provider","Name":"x"}]`, `"x" is there twice`},
		{`[` + strings.Repeat(`{},`, maxRules) + `{}]`, "4097 JWT providers"},
	} {
		_, err := convertJWTProviders(decode[[]wireJWTProvider](t, tt.json))
		wantError(t, err, tt.fails)
	}
}

func TestANegativeClockSkewAllowsNone(t *testing.T) {
	keys := base64.StdEncoding.EncodeToString([]byte(`{"keys":[]}`))
	for skew, want := range map[string]time.Duration{"-5": 0, "0": 30 * time.Second, "null": 30 * time.Second, "7": 7 * time.Second} {
		got, err := convertJWTProviders(decode[[]wireJWTProvider](t, fmt.Sprintf(`[{"Kind":"jwt-provider","Name":"x","ClockSkewSeconds":%s,"JSONWebKeySet":{"Local":{"JWKS":%q}}}]`, skew, keys)))
		if p := got["x"].Provider; err != nil || p.ClockSkew != want || p.Problem != "" {
			t.Errorf("%s: %+v, %v, want a skew of %v", skew, p, err, want)
		}
	}
}
