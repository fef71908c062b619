// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// The bounds of envoy_stats_flush_interval.
const (
	minFlush = time.Second
	maxFlush = time.Hour
)

// convertTelemetry reads the keys of a proxy config that say where metrics go.
func convertTelemetry(config opaque) connect.Telemetry {
	t := connect.Telemetry{
		PrometheusAddress: bindAddress(config, "envoy_prometheus_bind_addr"),
		Statsd:            statsURL(config, "envoy_statsd_url", "udp"),
		DogStatsd:         statsURL(config, "envoy_dogstatsd_url", "udp", "unix"),
		Tags:              statsTags(config),
		Interval:          config.duration("envoy_stats_flush_interval"),
	}
	if t.Interval != 0 && (t.Interval < minFlush || t.Interval > maxFlush) {
		t.Interval = min(max(t.Interval, minFlush), maxFlush)
		config.note("envoy_stats_flush_interval is not from %v to %v: it is %v now", minFlush, maxFlush, t.Interval)
	}
	if config.text("envoy_stats_bind_addr") != "" {
		config.note("envoy_stats_bind_addr is ignored: there is no Envoy with its /stats; envoy_prometheus_bind_addr serves /metrics")
	}
	return t
}

// bindAddress reads an IP address and port to listen on, as Envoy does.
func bindAddress(config opaque, key string) string {
	address := config.text(key)
	if address == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = netip.ParseAddr(host)
	}
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		config.note("%s is %.80q, want an IP address and a port, 0.0.0.0:9102 say; it is ignored", key, address)
		return ""
	}
	return address
}

// statsURL reads a URL, or $NAME for what an environment variable of the sidecar
// says. What the variable holds is looked at when it is used, and not kept here.
func statsURL(config opaque, key string, schemes ...string) string {
	text := config.text(key)
	if text == "" || len(text) > 1 && text[0] == '$' {
		return text
	}
	u, err := url.Parse(text)
	ok := false
	for _, scheme := range schemes {
		// A password is of no use here, and would be seen in snapshots.
		ok = ok || err == nil && u.User == nil && u.Scheme == scheme && (u.Port() != "" && u.Hostname() != "" || scheme == "unix" && u.Path != "")
	}
	if !ok {
		// The text is not shown: it may hold a password.
		config.note("%s is no URL of the form %s; it is ignored", key, strings.Join(forms(schemes), " or "))
		return ""
	}
	return text
}

func forms(schemes []string) []string {
	var out []string
	for _, scheme := range schemes {
		form := scheme + "://host:port"
		if scheme == "unix" {
			form = "unix:///path"
		}
		out = append(out, form)
	}
	return append(out, "$VARIABLE")
}

// statsTags reads "name=value"; a tag without a value has "1". Names are lower
// case, as Consul makes them.
func statsTags(config opaque) []connect.Tag {
	const key = "envoy_stats_tags"
	v, ok := config.lookup(key)
	if !ok {
		return nil
	}
	list, isList := v.([]any)
	if text, isText := v.(string); isText {
		// What Consul makes of a list of one that stands in proxy-defaults.
		list, isList = []any{text}, true
	}
	if !isList {
		config.note("%s is not a list and is ignored", key)
		return nil
	}
	var out []connect.Tag
	for _, item := range list {
		text, _ := item.(string)
		name, value, given := strings.Cut(text, "=")
		if name == "" {
			config.note("a tag of %s has no name and is ignored", key)
			continue
		}
		if len(out) == connect.MaxTags {
			config.note("%s has more than %d tags; the rest is ignored", key, connect.MaxTags)
			break
		}
		if !given {
			value = "1"
		}
		out = append(out, connect.Tag{Name: strings.ToLower(name), Value: value})
	}
	return out
}
