// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Bounds of the batch processor's variables, and their defaults (OpenTelemetry
// SDK environment variables, batch span processor).
const (
	defaultQueue = 2048
	maxQueue     = 1 << 16
	defaultBatch = 512
	maxBatch     = 2048
	defaultDelay = 5 * time.Second
	maxDelay     = time.Minute
	// maxAttributes bounds OTEL_RESOURCE_ATTRIBUTES.
	maxAttributes = 128
)

// settings is all that is decided before the first request.
type settings struct {
	destination destination
	resource    resource
	sampler     sampler
	propagation propagation
	queue       int // requests
	batch       int // spans
	delay       time.Duration
}

// environment reads the variables of the OpenTelemetry specification.
type environment struct {
	get func(string) string
	log hclog.Logger
}

// value is a variable; an empty one counts as absent.
func (e *environment) value(name string) string { return strings.TrimSpace(e.get(name)) }

// settings reads everything. on is false when nothing is to be exported.
func (e *environment) settings(o Options) (s settings, on bool, err error) {
	if strings.EqualFold(e.value("OTEL_SDK_DISABLED"), "true") {
		return s, false, nil
	}
	exporter := e.value("OTEL_TRACES_EXPORTER")
	switch {
	case exporter == "none":
		return s, false, nil
	case o.Config.Endpoint != "":
		s.destination, err = configured(o.Config)
	case exporter != "" && exporter != "otlp":
		e.ignored("OTEL_TRACES_EXPORTER", exporter, "traces are exported by otlp only, or not at all")
		return s, false, nil
	default:
		s.destination, on, err = e.destination(exporter == "otlp")
		if err != nil || !on {
			return s, false, err
		}
	}
	if err != nil {
		return s, false, err
	}
	e.warnClearText(s.destination)
	s.sampler = e.sampler()
	if r := o.Config.SampleRatio; r != nil {
		if !(*r >= 0 && *r <= 1) {
			return s, false, fmt.Errorf("read sample_ratio of telemetry: %g is not a number from 0 to 1", *r)
		}
		s.sampler = sampler{parentBased: true, ratio: *r}
	}
	s.propagation = e.propagation()
	s.resource = e.resource()
	s.resource.version, s.resource.host = o.Version, o.Host
	s.queue = e.number("OTEL_BSP_MAX_QUEUE_SIZE", defaultQueue, maxQueue)
	s.batch = min(e.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", defaultBatch, maxBatch), s.queue)
	s.delay = e.milliseconds("OTEL_BSP_SCHEDULE_DELAY", defaultDelay, maxDelay)
	return s, true, nil
}

func (e *environment) ignored(name, value, why string) {
	e.log.Warn("a variable of OpenTelemetry is ignored", "name", name, "value", clipped(value, maxName), "why", why)
}

func (e *environment) warnClearText(d destination) {
	u, err := url.Parse(d.url)
	if err != nil || u.Scheme != "http" || len(d.headers) == 0 && d.headersFile == "" {
		return
	}
	if host := u.Hostname(); host != "localhost" && host != "127.0.0.1" && host != "::1" {
		e.log.Warn("the headers for the collector cross the network in clear text; use https://", "collector", d.String())
	}
}

// exporter is a variable for traces, or the one for all signals.
func (e *environment) exporter(name string) string {
	return cmp.Or(e.value("OTEL_EXPORTER_OTLP_TRACES_"+name), e.value("OTEL_EXPORTER_OTLP_"+name))
}

// destination reads OTEL_EXPORTER_OTLP_*. Without an endpoint there is none,
// unless the exporter is wanted by name.
func (e *environment) destination(wanted bool) (d destination, on bool, err error) {
	protocol := cmp.Or(e.exporter("PROTOCOL"), protocolHTTP)
	name, base := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", false
	text := e.value(name)
	if text == "" {
		name, base = "OTEL_EXPORTER_OTLP_ENDPOINT", true
		text = e.value(name)
	}
	switch {
	case text == "" && !wanted:
		return d, false, nil
	case text == "" && protocol == protocolGRPC:
		text = "http://localhost:4317"
	case text == "":
		text = "http://localhost:4318"
	case protocol == protocolGRPC && !strings.Contains(text, "://"):
		// gRPC's own form of an address has no scheme.
		scheme := "https://"
		if strings.EqualFold(e.exporter("INSECURE"), "true") {
			scheme = "http://"
		}
		text = scheme + text
	}
	u, err := endpoint(text)
	if err != nil {
		return d, false, fmt.Errorf("read %s: %w", name, err)
	}
	if err := d.reach(u, protocol, base); err != nil {
		return d, false, fmt.Errorf("read OTEL_EXPORTER_OTLP_PROTOCOL and %s: %w", name, err)
	}
	if d.headers, err = headerList(e.exporter("HEADERS")); err != nil {
		return d, false, fmt.Errorf("read OTEL_EXPORTER_OTLP_HEADERS: %w", err)
	}
	d.caFile, d.certFile, d.keyFile = e.exporter("CERTIFICATE"), e.exporter("CLIENT_CERTIFICATE"), e.exporter("CLIENT_KEY")
	if (d.certFile == "") != (d.keyFile == "") {
		return d, false, fmt.Errorf("read OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: one needs the other; set both")
	}
	switch compression := e.exporter("COMPRESSION"); compression {
	case "gzip":
		d.gzip = true
	case "", "none":
	default:
		e.ignored("OTEL_EXPORTER_OTLP_COMPRESSION", compression, "gzip and none are known")
	}
	d.timeout = e.milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", defaultTimeout, maxTimeout)
	if e.value("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") != "" {
		d.timeout = e.milliseconds("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", defaultTimeout, maxTimeout)
	}
	return d, true, nil
}

// headerList reads "name=value,name=value" with values escaped as in a URL.
// Errors hold no value.
func headerList(text string) ([]pair, error) {
	var out []pair
	number := 0
	for part := range strings.SplitSeq(text, ",") {
		number++
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil {
			return nil, fmt.Errorf("entry %d is not name=value, with the value escaped as in a URL", number)
		}
		h, err := header(name, value)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", number, err)
		}
		if out = append(out, h); len(out) > maxHeaders {
			return nil, fmt.Errorf("there are more than %d headers", maxHeaders)
		}
	}
	return out, nil
}

// sampler reads OTEL_TRACES_SAMPLER; the default is parentbased_always_on.
func (e *environment) sampler() sampler {
	name := cmp.Or(e.value("OTEL_TRACES_SAMPLER"), "parentbased_always_on")
	base, based := strings.CutPrefix(name, "parentbased_")
	s := sampler{parentBased: based}
	switch base {
	case "always_on":
		s.ratio = 1
	case "always_off":
	case "traceidratio":
		s.ratio = 1
		if arg := e.value("OTEL_TRACES_SAMPLER_ARG"); arg != "" {
			ratio, err := strconv.ParseFloat(arg, 64)
			if err != nil || math.IsNaN(ratio) || ratio < 0 || ratio > 1 {
				e.ignored("OTEL_TRACES_SAMPLER_ARG", arg, "it is not a number from 0 to 1")
				break
			}
			s.ratio = ratio
		}
	default:
		e.ignored("OTEL_TRACES_SAMPLER", name, "always_on, always_off, traceidratio and their parentbased_ forms are known")
		return sampler{parentBased: true, ratio: 1}
	}
	return s
}

// propagation reads OTEL_PROPAGATORS. Without it, W3C Trace Context is read and
// written, and B3 is read. Baggage goes through as any header does.
func (e *environment) propagation() propagation {
	list := e.value("OTEL_PROPAGATORS")
	if list == "" {
		return propagation{read: []forms{w3c, b3, b3multi}, write: w3c}
	}
	var p propagation
	for name := range strings.SplitSeq(list, ",") {
		var form forms
		switch name = strings.TrimSpace(name); name {
		case "tracecontext":
			form = w3c
		case "b3":
			form = b3
		case "b3multi":
			form = b3multi
		case "none":
			return propagation{}
		case "baggage", "":
			continue
		default:
			e.ignored("OTEL_PROPAGATORS", name, "tracecontext, baggage, b3, b3multi and none are known")
			continue
		}
		if p.write&form == 0 {
			p.read, p.write = append(p.read, form), p.write|form
		}
	}
	return p
}

// resource reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. One entry that
// cannot be read spoils them all, as the specification has it.
func (e *environment) resource() resource {
	r := resource{service: e.value("OTEL_SERVICE_NAME")}
	const variable = "OTEL_RESOURCE_ATTRIBUTES"
	for part := range strings.SplitSeq(e.value(variable), ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		key, keyErr := url.PathUnescape(strings.TrimSpace(key))
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || key == "" || keyErr != nil || err != nil || len(r.attributes) == maxAttributes {
			e.ignored(variable, part, "it is not key=value, with the value escaped as in a URL, or there are too many")
			return resource{service: r.service}
		}
		if key == string(semconv.ServiceNameKey) {
			r.service = cmp.Or(r.service, value)
			continue
		}
		r.attributes = append(r.attributes, pair{key, value})
	}
	return r
}

// number reads a count from 1 to most.
func (e *environment) number(name string, otherwise, most int) int {
	text := e.value(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		e.ignored(name, text, "it is not a number of 1 or more")
		return otherwise
	}
	return min(n, most)
}

func (e *environment) milliseconds(name string, otherwise, most time.Duration) time.Duration {
	return time.Duration(e.number(name, int(otherwise/time.Millisecond), int(most/time.Millisecond))) * time.Millisecond
}
