// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestKeysOfTelemetryAreReadOrNoted(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]struct {
		telemetry connect.Telemetry
		note      string // "" for none
	}{
		`{}`: {},
		`{"envoy_prometheus_bind_addr":"0.0.0.0:9102"}`:      {telemetry: connect.Telemetry{PrometheusAddress: "0.0.0.0:9102"}},
		`{"envoy_prometheus_bind_addr":"[::1]:9102"}`:        {telemetry: connect.Telemetry{PrometheusAddress: "[::1]:9102"}},
		`{"envoy_prometheus_bind_addr":"metrics:9102"}`:      {note: `"metrics:9102", want an IP address and a port`},
		`{"envoy_prometheus_bind_addr":"0.0.0.0:0"}`:         {note: "want an IP address and a port"},
		`{"envoy_prometheus_bind_addr":"0.0.0.0"}`:           {note: "want an IP address and a port"},
		`{"envoy_prometheus_bind_addr":9102}`:                {note: "is not a string"},
		`{"envoy_stats_bind_addr":"0.0.0.0:9102"}`:           {note: "envoy_stats_bind_addr is ignored"},
		`{"envoy_statsd_url":"udp://127.0.0.1:8125"}`:        {telemetry: connect.Telemetry{Statsd: "udp://127.0.0.1:8125"}},
		`{"envoy_statsd_url":"$STATSD_URL"}`:                 {telemetry: connect.Telemetry{Statsd: "$STATSD_URL"}},
		`{"envoy_statsd_url":"unix:///run/statsd.sock"}`:     {note: "no URL of the form udp://host:port or $VARIABLE"},
		`{"envoy_statsd_url":"udp://127.0.0.1"}`:             {note: "no URL of the form"},
		`{"envoy_statsd_url":"udp://me:secret@127.0.0.1:1"}`: {note: "no URL of the form"},
		`{"envoy_statsd_url":"tcp://:secret@127.0.0.1:1"}`:   {note: "no URL of the form"},
		`{"envoy_statsd_url":"$"}`:                           {note: "no URL of the form"},
		`{"envoy_dogstatsd_url":"unix:///run/dog.sock"}`:     {telemetry: connect.Telemetry{DogStatsd: "unix:///run/dog.sock"}},
		`{"envoy_dogstatsd_url":"udp://dog:8125"}`:           {telemetry: connect.Telemetry{DogStatsd: "udp://dog:8125"}},
		`{"envoy_dogstatsd_url":"unix://"}`:                  {note: "udp://host:port or unix:///path or $VARIABLE"},
		`{"envoy_stats_tags":["Env=prod","canary","a=b=c"]}`: {telemetry: connect.Telemetry{Tags: []connect.Tag{{Name: "env", Value: "prod"}, {Name: "canary", Value: "1"}, {Name: "a", Value: "b=c"}}}},
		`{"envoy_stats_tags":["=x", 7]}`:                     {note: "a tag of envoy_stats_tags has no name"},
		`{"envoy_stats_tags":"env=prod"}`:                    {telemetry: connect.Telemetry{Tags: []connect.Tag{{Name: "env", Value: "prod"}}}},
		`{"envoy_stats_tags":{"env":"prod"}}`:                {note: "is not a list"},
		`{"envoy_stats_flush_interval":"10s"}`:               {telemetry: connect.Telemetry{Interval: 10 * time.Second}},
		`{"envoy_stats_flush_interval":"1ms"}`:               {telemetry: connect.Telemetry{Interval: time.Second}, note: "is not from 1s to 1h0m0s"},
		`{"envoy_stats_flush_interval":"soon"}`:              {note: "envoy_stats_flush_interval"},
		`{"EnvoyStatsFlushInterval":"2s"}`:                   {telemetry: connect.Telemetry{Interval: 2 * time.Second}},
	} {
		r, err := convertRegistration(sidecar(t, "", `,"Config":`+config), "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.telemetry, r.Service.Telemetry); diff != "" {
			t.Errorf("%s (-want +got):\n%s", config, diff)
		}
		notes := strings.Join(r.Warnings, "; ")
		if !strings.Contains(notes, want.note) || (want.note == "") != (notes == "") || strings.Contains(notes, "secret") {
			t.Errorf("%s: notes %q, want %q", config, notes, want.note)
		}
	}
}

func TestTagsAreBounded(t *testing.T) {
	t.Parallel()
	r, err := convertRegistration(sidecar(t, "", `,"Config":{"envoy_stats_tags":["`+strings.Repeat(`t=1","`, 100)+`t=1"]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Service.Telemetry.Tags) != connect.MaxTags || len(r.Warnings) != 1 {
		t.Errorf("%d tags, warnings %q", len(r.Service.Telemetry.Tags), r.Warnings)
	}
}
