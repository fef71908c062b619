// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

// from reads settings from an environment, with what is logged.
func from(env map[string]string, c Config) (s settings, on bool, logged string, err error) {
	var b bytes.Buffer
	e := environment{get: func(name string) string { return env[name] }, log: hclog.New(&hclog.LoggerOptions{Output: &b})}
	s, on, err = e.settings(Options{Config: c, Version: "1.0", Host: "vm1"})
	return s, on, b.String(), err
}

const at = "OTEL_EXPORTER_OTLP_ENDPOINT"

func TestNothingIsTracedUnlessSomebodySaysWhereTo(t *testing.T) {
	t.Parallel()
	block := Config{Endpoint: "http://127.0.0.1:4318"}
	for name, tc := range map[string]struct {
		env    map[string]string
		config Config
		want   string // destination; "" is off
	}{
		"nothing":                    {},
		"a ratio alone":              {config: Config{SampleRatio: new(float64)}},
		"a sampler alone":            {env: map[string]string{"OTEL_TRACES_SAMPLER": "always_on", "OTEL_SERVICE_NAME": "x"}},
		"an endpoint":                {env: map[string]string{at: "https://c:4318"}, want: "https://c:4318 (http/protobuf)"},
		"an endpoint for traces":     {env: map[string]string{at: "https://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d:1/x"}, want: "http://d:1 (http/protobuf)"},
		"an exporter by name":        {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, want: "http://localhost:4318 (http/protobuf)"},
		"an exporter by name, gRPC":  {env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, want: "http://localhost:4317 (grpc)"},
		"gRPC without a scheme":      {env: map[string]string{at: "c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, want: "https://c:4317 (grpc)"},
		"gRPC without a scheme, TLS": {env: map[string]string{at: "c:4317", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, want: "http://c:4317 (grpc)"},
		"no exporter":                {env: map[string]string{at: "https://c", "OTEL_TRACES_EXPORTER": "none"}},
		"another exporter":           {env: map[string]string{at: "https://c", "OTEL_TRACES_EXPORTER": "zipkin"}},
		"disabled":                   {env: map[string]string{at: "https://c", "OTEL_SDK_DISABLED": "TRUE"}},
		"the block":                  {config: block, want: "http://127.0.0.1:4318 (http/protobuf)"},
		"the block before the rest":  {config: block, env: map[string]string{at: "https://c:4318", "OTEL_TRACES_EXPORTER": "zipkin"}, want: "http://127.0.0.1:4318 (http/protobuf)"},
		"the block, disabled":        {config: block, env: map[string]string{"OTEL_SDK_DISABLED": "true"}},
		"the block, no exporter":     {config: block, env: map[string]string{"OTEL_TRACES_EXPORTER": "none"}},
	} {
		s, on, _, err := from(tc.env, tc.config)
		if err != nil || on != (tc.want != "") || on && s.destination.String() != tc.want {
			t.Errorf("%s: %t %q %v, want %q", name, on, s.destination.String(), err, tc.want)
		}
	}
	if tr, err := New(Options{}); tr != nil || err != nil || tr.Tracer() != nil || tr.Run(t.Context()) != nil || tr.Stats() != (Stats{}) || tr.Destination() != "" {
		t.Errorf("nothing configured: %v %v", tr, err)
	}
	if tr, err := New(Options{Config: block}); err != nil || tr.Tracer() == nil {
		t.Errorf("the block: %v %v", tr, err)
	}
}

func TestSettingsAreThoseOfTheSpecification(t *testing.T) {
	t.Parallel()
	ratio := 0.25
	base := settings{
		destination: destination{url: "http://c/v1/traces", timeout: 10 * time.Second},
		resource:    resource{version: "1.0", host: "vm1"}, sampler: sampler{parentBased: true, ratio: 1},
		propagation: propagation{read: []forms{w3c, b3, b3multi}, write: w3c}, queue: 2048, batch: 512, delay: 5 * time.Second,
	}
	for name, tc := range map[string]struct {
		env    map[string]string
		config Config
		want   func(*settings)
	}{
		"defaults": {},
		"a path":   {env: map[string]string{at: "http://c/base/"}, want: func(s *settings) { s.destination.url = "http://c/base/v1/traces" }},
		"traces":   {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, want: func(s *settings) { s.destination.url = "http://c/" }},
		"all of a destination": {
			env: map[string]string{
				"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, X-Team = a ", "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
				"OTEL_EXPORTER_OTLP_CERTIFICATE": "ca", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "cert", "OTEL_EXPORTER_OTLP_CLIENT_KEY": "key", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
			},
			want: func(s *settings) {
				s.destination = destination{
					url: "http://c/v1/traces", headers: []pair{{"Authorization", "Bearer x"}, {"X-Team", "a"}},
					caFile: "ca", certFile: "cert", keyFile: "key", gzip: true, timeout: 2500 * time.Millisecond,
				}
			},
		},
		"gRPC": {
			env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1"},
			want: func(s *settings) {
				s.destination = destination{url: "http://c" + grpcMethod, grpc: true, timeout: time.Millisecond}
			},
		},
		"headers for one collector do not reach another": {
			env:    map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "authorization=x", "OTEL_EXPORTER_OTLP_CERTIFICATE": "ca", "OTEL_TRACES_SAMPLER": "always_off"},
			config: Config{Endpoint: "https://d", HeadersFile: "headers", CAFile: "other", SampleRatio: &ratio},
			want: func(s *settings) {
				s.destination = destination{url: "https://d/v1/traces", headersFile: "headers", caFile: "other", timeout: 10 * time.Second}
				s.sampler.ratio = 0.25
			},
		},
		"never":              {env: map[string]string{"OTEL_TRACES_SAMPLER": "always_off"}, want: func(s *settings) { s.sampler = sampler{} }},
		"always":             {env: map[string]string{"OTEL_TRACES_SAMPLER": "always_on"}, want: func(s *settings) { s.sampler = sampler{ratio: 1} }},
		"never of our own":   {env: map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, want: func(s *settings) { s.sampler.ratio = 0 }},
		"some":               {env: map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, want: func(s *settings) { s.sampler = sampler{ratio: 0.5} }},
		"some of our own":    {env: map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, want: func(s *settings) { s.sampler.ratio = 0.5 }},
		"no ratio":           {env: map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "NaN"}},
		"an unknown sampler": {env: map[string]string{"OTEL_TRACES_SAMPLER": "xray"}},
		"B3":                 {env: map[string]string{"OTEL_PROPAGATORS": "b3,baggage,tracecontext,b3,xray"}, want: func(s *settings) { s.propagation = propagation{read: []forms{b3, w3c}, write: b3 | w3c} }},
		"no propagation":     {env: map[string]string{"OTEL_PROPAGATORS": "none"}, want: func(s *settings) { s.propagation = propagation{} }},
		"a resource": {
			env:  map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,k%2C=v%20w"},
			want: func(s *settings) { s.resource.service, s.resource.attributes = "a", []pair{{"k,", "v w"}} },
		},
		"a name":                     {env: map[string]string{"OTEL_SERVICE_NAME": "b", "OTEL_RESOURCE_ATTRIBUTES": "service.name=a"}, want: func(s *settings) { s.resource.service = "b" }},
		"a resource that is none":    {env: map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "a=b,c"}},
		"a queue":                    {env: map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_SCHEDULE_DELAY": "50"}, want: func(s *settings) { s.queue, s.batch, s.delay = 100, 100, 50*time.Millisecond }},
		"a queue without bounds":     {env: map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "100000000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000"}, want: func(s *settings) { s.queue, s.batch = maxQueue, maxBatch }},
		"numbers that are none":      {env: map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "0", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-1", "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}},
		"a compression nobody knows": {env: map[string]string{"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{at: "http://c"}
			maps.Copy(env, tc.env)
			want := base
			if tc.want != nil {
				tc.want(&want)
			}
			got, on, logged, err := from(env, tc.config)
			if err != nil || !on {
				t.Fatalf("on %t, %v", on, err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{}, destination{}, resource{}, pair{}, sampler{}, propagation{})); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
			if ignored := tc.want == nil && len(tc.env) > 0; ignored && !strings.Contains(logged, "is ignored: name=OTEL_") {
				t.Errorf("what is ignored is not logged: %q", logged)
			}
		})
	}
}

func TestWhatCannotBeReadIsAnErrorWithoutTheSecret(t *testing.T) {
	t.Parallel()
	half := 1.5
	for name, tc := range map[string]struct {
		env    map[string]string
		config Config
		want   string
	}{
		"no URL":         {env: map[string]string{at: "c:4318"}, want: "OTEL_EXPORTER_OTLP_ENDPOINT: it is not a URL"},
		"half a URL":     {env: map[string]string{at: "http://s3cret:%zz@c"}, want: "it is not a URL"},
		"a password":     {env: map[string]string{at: "http://user:s3cret@c"}, want: "a user name or password in the URL would show"},
		"a query":        {env: map[string]string{at: "http://c/?key=s3cret"}, want: "it has a query"},
		"a protocol":     {env: map[string]string{at: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, want: `protocol "http/json" is not supported; use http/protobuf or grpc`},
		"a path of gRPC": {env: map[string]string{at: "http://c/x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, want: "has no path"},
		"half a header":  {env: map[string]string{at: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=b,s3cret"}, want: "OTEL_EXPORTER_OTLP_HEADERS: entry 2 is not name=value"},
		"a header's end": {env: map[string]string{at: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=s3cret%0d%0ab:c"}, want: "the value of header A has characters that no header may have"},
		"our header":     {env: map[string]string{at: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "host=s3cret"}, want: "header Host belongs to the protocol"},
		"no key":         {env: map[string]string{at: "http://c", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "x"}, want: "one needs the other"},
		"the block":      {config: Config{Endpoint: "http://user:s3cret@c"}, want: "otlp_endpoint of telemetry: a user name"},
		"its protocol":   {config: Config{Endpoint: "http://c", Protocol: "thrift"}, want: `otlp_protocol of telemetry: protocol "thrift"`},
		"its ratio":      {config: Config{Endpoint: "http://c", SampleRatio: &half}, want: "1.5 is not a number from 0 to 1"},
	} {
		_, on, logged, err := from(tc.env, tc.config)
		if err == nil || on || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(logged, "s3cret") || err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the secret shows: %v %s", name, err, logged)
		}
	}
}

func TestHeadersInClearTextAreWarnedOf(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]bool{"http://c:4318": true, "https://c:4318": false, "http://127.0.0.1:4318": false} {
		_, _, logged, err := from(map[string]string{at: endpoint, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=s3cret"}, Config{})
		if err != nil || strings.Contains(logged, "clear text") != want || strings.Contains(logged, "s3cret") {
			t.Errorf("%s: %q %v", endpoint, logged, err)
		}
	}
}

func TestSamplerTakesTheSameTracesEverywhere(t *testing.T) {
	t.Parallel()
	half, low := sampler{ratio: 0.5}, traceID{8: 0x7f, 15: 1}
	if high := (traceID{8: 0x80}); !half.sample(origin{}, low) || half.sample(origin{}, high) {
		t.Error("the wrong half of the traces is taken")
	}
	taken := 0
	tenth := sampler{parentBased: true, ratio: 0.1}
	for range 20_000 {
		if tenth.sample(origin{}, newTraceID()) {
			taken++
		}
	}
	if taken < 1700 || taken > 2300 {
		t.Errorf("%d of 20000 are a tenth", taken)
	}
	if !tenth.sample(origin{decision: sampled}, traceID{8: 0xff}) || tenth.sample(origin{decision: unsampled}, traceID{15: 1}) {
		t.Error("who has decided before is not followed")
	}
	for s, want := range map[sampler]string{
		{ratio: 1}: "always_on", {}: "always_off", {parentBased: true, ratio: 0.1}: "parentbased_traceidratio 0.1",
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
