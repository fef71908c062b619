// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestRecordedDefaultsAreReadFromMeta(t *testing.T) {
	got, err := convertDefaults(recorded[wireDefaults](t, "service-defaults.json"), "api")
	if err != nil {
		t.Fatal(err)
	}
	want := ServiceDefaults{
		RateLimits: connect.RateLimits{Rate: 100, Burst: 200, Routes: []connect.RouteLimit{{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/x"}, Rate: 1}}},
		Faults: []connect.Fault{{
			Match: connect.RequestMatch{
				Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/slow"}, Methods: []string{"GET"},
				Headers: []connect.HeaderMatch{{Name: "x-chaos", Kind: connect.MatchExact, Value: "1"}},
			},
			Delay: 200 * time.Millisecond, DelayMillionths: 500_000, AbortStatus: 503, AbortMillionths: 15_000,
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func withMeta(t *testing.T, entry string, meta map[string]string) wireDefaults {
	t.Helper()
	w := decode[wireDefaults](t, `{"Kind":"service-defaults","Name":"api"`+entry+`}`)
	w.Meta = meta
	return w
}

func TestRateLimitsComeFromTheEntryThenFromMeta(t *testing.T) {
	const entry = `,"RateLimits":{"InstanceLevel":{"RequestsPerSecond":7,"Routes":[{"PathExact":"/a","RequestsPerSecond":2,"RequestsMaxBurst":3}]}}`
	want := connect.RateLimits{Rate: 7, Routes: []connect.RouteLimit{{Path: connect.PathMatch{Kind: connect.MatchExact, Value: "/a"}, Rate: 2, Burst: 3}}}
	for _, tt := range []struct {
		name, entry string
		meta        map[string]string
		want        connect.RateLimits
		warning     string
	}{
		{name: "nothing"},
		{name: "entry", entry: entry, want: want},
		{name: "both", entry: entry, meta: map[string]string{rateLimitsKey: `{"instance_level":{"requests_per_second":1}}`}, want: want, warning: "is ignored: the entry has rate_limits"},
		{name: "meta in Consul's spelling", meta: map[string]string{rateLimitsKey: `{"InstanceLevel":{"RequestsPerSecond":7,"Routes":[{"PathExact":"/a","RequestsPerSecond":2,"RequestsMaxBurst":3}]}}`}, want: want},
		{name: "meta for others", meta: map[string]string{"team": "a"}},
		{name: "misspelt", meta: map[string]string{"outrider-ratelimits": `{}`}, warning: "key outrider-ratelimits of Meta is not known"},
		{name: "empty", meta: map[string]string{rateLimitsKey: `null`, faultsKey: `[]`}},
	} {
		got, err := convertDefaults(withMeta(t, tt.entry, tt.meta), "api")
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got.RateLimits); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		warnings := strings.Join(got.Warnings, "; ")
		if !strings.Contains(warnings, tt.warning) || (tt.warning == "") != (warnings == "") {
			t.Errorf("%s: warnings %q, want %q", tt.name, warnings, tt.warning)
		}
	}
}

func TestDefaultsThatCannotBeReadSayWhere(t *testing.T) {
	for _, tt := range []struct{ key, text, fails string }{
		{rateLimitsKey, ``, "is not JSON"},
		{rateLimitsKey, `{`, "is not JSON"},
		{rateLimitsKey, `{} {}`, "something follows"},
		{rateLimitsKey, `{"instance_level":{"requests_per_sec":1}}`, `unknown field "requestspersec"`},
		{rateLimitsKey, `{"requests_per_second":1}`, "unknown field"},
		{rateLimitsKey, `{"instance_level":{"requests_per_second":1,"RequestsPerSecond":2}}`, "is there twice"},
		{rateLimitsKey, `{"instance_level":{"requests_per_second":-1}}`, "requests_per_second is -1"},
		{rateLimitsKey, `{"instance_level":{"requests_per_second":1.5}}`, "cannot be read whole"},
		{rateLimitsKey, `{"instance_level":{"requests_max_burst":1}}`, "requests_max_burst is 1"},
		{rateLimitsKey, `{"instance_level":{"requests_per_second":2,"requests_max_burst":1}}`, "requests_max_burst is 1"},
		{rateLimitsKey, `{"instance_level":{"routes":[{"requests_per_second":1}]}}`, "route 1: it has no path"},
		{rateLimitsKey, `{"instance_level":{"routes":[{"path_prefix":"/","path_exact":"/"}]}}`, "route 1: path: exact and prefix"},
		{rateLimitsKey, `{"instance_level":{"routes":[{"path_regex":"("}]}}`, "route 1: path: regular expression"},
		{rateLimitsKey, `{"instance_level":{"routes":[{"path_prefix":"/","requests_per_second":2000000000}]}}`, "route 1: requests_per_second"},
		{maxBodyKey, `10 MB`, "is not a number of bytes above 0"},
		{maxBodyKey, `0`, "is not a number of bytes above 0"},
		{faultsKey, `{}`, "cannot be read whole"},
		{faultsKey, `[{}]`, "fault 1: it neither delays nor aborts"},
		{faultsKey, `[{"delay":"1s","delay_percent":1},{"delay":"1s"}]`, "fault 2: delay and delay_percent go together"},
		{faultsKey, `[{"delay_percent":1}]`, "delay and delay_percent go together"},
		{faultsKey, `[{"abort_status":503}]`, "abort_status and abort_percent go together"},
		{faultsKey, `[{"abort_status":99,"abort_percent":1}]`, "abort_status is 99"},
		{faultsKey, `[{"abort_status":503,"abort_percent":101}]`, "abort_percent: 101 is not"},
		{faultsKey, `[{"abort_status":503,"abort_percent":0.00001}]`, "abort_percent: 1e-05 is not"},
		{faultsKey, `[{"delay":"1s","delay_percent":-1}]`, "delay_percent: -1 is not"},
		{faultsKey, `[{"delay":"1h","delay_percent":1}]`, "delay is 1h0m0s"},
		{faultsKey, `[{"delay":"-1s","delay_percent":1}]`, "delay: -1s is not"},
		{faultsKey, `[{"delay":"1s","delay_percent":1,"path":"/x"}]`, `unknown field "path"`},
		{faultsKey, `[{"delay":"1s","delay_percent":1,"path_prefix":"x"}]`, "does not begin with"},
		{faultsKey, `[{"delay":"1s","delay_percent":1,"header":[{"name":"x"}]}]`, `header "x": it has no matcher`},
		{faultsKey, `[` + strings.Repeat(`null,`, maxFaults) + `null]`, "65 faults"},
	} {
		got, err := convertDefaults(withMeta(t, "", map[string]string{tt.key: tt.text}), "api")
		wantError(t, err, tt.fails, "key "+tt.key+" of Meta")
		if diff := cmp.Diff(ServiceDefaults{}, got); diff != "" {
			t.Errorf("%s: something was read (-want +got):\n%s", tt.text, diff)
		}
	}
	_, err := convertDefaults(withMeta(t, `,"RateLimits":{"InstanceLevel":{"RequestsPerSecond":-1}}`, nil), "api")
	wantError(t, err, "rate_limits: requests_per_second is -1")
	_, err = convertDefaults(withMeta(t, "", nil), "db")
	wantError(t, err, `the entry "api"`)
}

func FuzzDefaults(f *testing.F) {
	f.Add(`{"instance_level":{"requests_per_second":100,"requests_max_burst":200,"routes":[{"path_prefix":"/x","requests_per_second":1}]}}`,
		`[{"path_prefix":"/slow","methods":["GET"],"header":[{"name":"x-chaos","exact":"1"}],"delay":"200ms","delay_percent":50,"abort_status":503,"abort_percent":1.5}]`)
	f.Fuzz(func(t *testing.T, limits, faults string) {
		d, err := convertDefaults(wireDefaults{Kind: "service-defaults", Name: "api", Meta: map[string]string{rateLimitsKey: limits, faultsKey: faults}}, "api")
		if err != nil {
			return
		}
		for _, f := range d.Faults {
			if f.Delay < 0 || f.Delay > maxFaultDelay || f.DelayMillionths < 0 || f.DelayMillionths > 1_000_000 || f.AbortMillionths < 0 || f.AbortMillionths > 1_000_000 ||
				(f.DelayMillionths == 0 && f.AbortMillionths == 0) || (f.AbortMillionths > 0 && (f.AbortStatus < 200 || f.AbortStatus > 599)) {
				t.Fatalf("accepted %+v", f)
			}
		}
		for _, r := range append(d.RateLimits.Routes, connect.RouteLimit{Path: connect.PathMatch{Kind: "x"}, Rate: d.RateLimits.Rate, Burst: d.RateLimits.Burst}) {
			if r.Path.Kind == "" || r.Rate < 0 || (r.Burst != 0 && r.Burst < r.Rate) {
				t.Fatalf("accepted %+v", r)
			}
		}
	})
}

func FuzzJWTProviders(f *testing.F) {
	seed(f, "jwt-providers.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		var w []wireJWTProvider
		if json.Unmarshal(text, &w) != nil {
			return
		}
		sources, err := convertJWTProviders(w)
		if err != nil {
			return
		}
		for name, s := range sources {
			ways := 0
			for _, set := range []bool{s.Provider.Keys != "", s.Remote != nil, s.KeysFile != ""} {
				if set {
					ways++
				}
			}
			if s.Provider.Name != name || (s.Provider.Problem == "") != (ways == 1) || s.Provider.ClockSkew < 0 {
				t.Fatalf("accepted %+v", s)
			}
		}
	})
}

func FuzzMesh(f *testing.F) {
	seed(f, "mesh.json", "mesh-http.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		var w []wireMesh
		if json.Unmarshal(text, &w) != nil {
			return
		}
		mesh, err := convertMesh(w)
		if err != nil {
			return
		}
		switch mesh.Normalization.EscapedSlashes {
		case "", connect.SlashKeep, connect.SlashReject, connect.SlashRedirect, connect.SlashForward:
		default:
			t.Fatalf("accepted %+v", mesh)
		}
	})
}
