// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "time"

// Telemetry says where the metrics of one sidecar go besides those of its process,
// from the proxy config of its registration (Consul, Envoy bootstrap
// configuration: envoy_prometheus_bind_addr and its neighbours). The zero value
// sends them nowhere.
type Telemetry struct {
	// PrometheusAddress is host:port on which /metrics is served; "" for none.
	PrometheusAddress string
	// Statsd and DogStatsd are where values are sent to: udp://host:port,
	// unix:///path of a datagram socket, or $NAME, which stands for what the
	// environment variable says; "" for nowhere. DogStatsd knows tags.
	Statsd    string
	DogStatsd string
	Tags      []Tag         // on every series; at most MaxTags
	Interval  time.Duration // between two sendings; 0 means 5 s
}

// MaxTags bounds the tags of a sidecar's metrics.
const MaxTags = 16

// A Tag is a label that whoever registered the sidecar wants on its metrics.
type Tag struct{ Name, Value string }
