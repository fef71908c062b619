// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

type wireUpstream struct {
	DestinationType      string
	DestinationName      string
	DestinationNamespace string
	DestinationPartition string
	DestinationPeer      string
	Datacenter           string
	LocalBindAddress     string
	LocalBindPort        int
	LocalBindSocketPath  string
	LocalBindSocketMode  string
	Config               map[string]any
	MeshGateway          struct{ Mode string }
}

// listens reports whether an entry is an upstream of its own. Entries without a
// port and a socket only carry defaults, which the agent has merged already.
func (w wireUpstream) listens() bool {
	return w.LocalBindPort != 0 || w.LocalBindSocketPath != ""
}

func convertUpstreams(proxy *wireProxy, s connect.Service, warnings *[]string) []connect.Upstream {
	var upstreams []connect.Upstream
	balance := balanceKey(opaque{where: "proxy config", values: proxy.Config, notes: warnings})
	seen := make(map[connect.UpstreamID]bool)
	for _, w := range proxy.Upstreams {
		if !w.listens() {
			continue
		}
		id := upstreamID(w, s)
		if seen[id] {
			// The same destination behind two listeners is unusual but fine.
			id = withOption(id, "listen", listenOn(w))
		}
		if reason := unbindable(w); reason != "" || seen[id] {
			*warnings = append(*warnings, fmt.Sprintf("upstream %q is left out: %s", id, either(reason, "it is there twice")))
			continue
		}
		seen[id] = true
		u := convertUpstream(id, w, proxy, s, warnings)
		u.Balance = either(u.Balance, balance)
		upstreams = append(upstreams, u)
	}
	slices.SortFunc(upstreams, func(a, b connect.Upstream) int { return cmp.Compare(a.ID, b.ID) })
	return upstreams
}

func convertUpstream(id connect.UpstreamID, w wireUpstream, proxy *wireProxy, s connect.Service, warnings *[]string) connect.Upstream {
	config := opaque{where: fmt.Sprintf("upstream %q", id), values: w.Config, notes: warnings}
	*warnings = append(*warnings, escapeHatches(config.where, w.Config)...)
	u := connect.Upstream{
		ID:             id,
		Name:           w.DestinationName,
		Namespace:      either(w.DestinationNamespace, s.Namespace),
		Partition:      strings.ToLower(either(w.DestinationPartition, s.Partition)),
		Peer:           w.DestinationPeer,
		Query:          w.DestinationType == "prepared_query",
		BindAddress:    either(w.LocalBindAddress, "127.0.0.1"),
		BindPort:       w.LocalBindPort,
		BindSocketPath: w.LocalBindSocketPath,
		ConnectTimeout: config.milliseconds("connect_timeout_ms"),
		MeshGateway:    either(w.MeshGateway.Mode, proxy.MeshGateway.Mode),
		Balance:        balanceKey(config),
		PassiveHealth:  passiveHealth(config.object("passive_health_check")),
	}
	limits := config.object("limits")
	u.MaxConnections, u.MaxPending, u.MaxRequests = limits.limit("max_connections"), limits.limit("max_pending_requests"), limits.limit("max_concurrent_requests")
	if w.Datacenter != s.Datacenter {
		u.Datacenter = w.Datacenter
	}
	if u.BindSocketPath != "" {
		u.BindAddress = ""
	}
	if name := config.text("protocol"); name != "" && u.Peer == "" {
		u.Protocol = protocol(name) // that of a peer's service is for the peer to say
	}
	if u.Peer != "" {
		// Its endpoints are gateways: none of them is the one whose loss would
		// overload the others, and all may have to be left out (Consul's proxies).
		u.PassiveHealth.MaxEjectionPercent = 100
	}
	mode, err := socketMode(w.LocalBindSocketMode)
	u.BindSocketMode = mode
	u.Problem = problem(w)
	if err != nil && u.Problem == "" {
		u.Problem = fmt.Sprintf("the mode of its socket, %q, is not an octal number such as 0600", w.LocalBindSocketMode)
	}
	return u
}

// problem says why an upstream cannot be served.
func problem(w wireUpstream) string {
	switch w.DestinationType {
	case "", "service":
	case "prepared_query":
		if w.DestinationPeer != "" {
			return fmt.Sprintf("it is a prepared query of peer %q: a query is run in our own cluster", w.DestinationPeer)
		}
	default:
		return fmt.Sprintf("destination type %q is not known", w.DestinationType)
	}
	if w.DestinationPeer != "" && w.Datacenter != "" {
		return fmt.Sprintf("it is in datacenter %q of peer %q: a peer has its own datacenters, so that only one of the two can be named", w.Datacenter, w.DestinationPeer)
	}
	return ""
}

// unbindable says why no listener can be made for an upstream.
func unbindable(w wireUpstream) string {
	if w.DestinationName == "" {
		return "it names no destination"
	}
	if w.LocalBindSocketPath != "" {
		return ""
	}
	if err := checkPort(w.LocalBindPort); err != nil {
		return err.Error()
	}
	if w.LocalBindAddress != "" {
		if _, err := netip.ParseAddr(w.LocalBindAddress); err != nil {
			return fmt.Sprintf("local bind address %q is not an IP address", w.LocalBindAddress)
		}
	}
	return ""
}

// upstreamID names an upstream as documented at connect.UpstreamID.
func upstreamID(w wireUpstream, s connect.Service) connect.UpstreamID {
	if w.DestinationType == "prepared_query" {
		return connect.UpstreamID("query:" + w.DestinationName)
	}
	id := connect.UpstreamID(w.DestinationName)
	if ns := either(w.DestinationNamespace, s.Namespace); ns != s.Namespace {
		id = withOption(id, "ns", ns)
	}
	if ap := either(w.DestinationPartition, s.Partition); !strings.EqualFold(ap, s.Partition) {
		id = withOption(id, "partition", strings.ToLower(ap))
	}
	if w.DestinationPeer != "" {
		return withOption(id, "peer", w.DestinationPeer)
	}
	if w.Datacenter != "" && w.Datacenter != s.Datacenter {
		id = withOption(id, "dc", w.Datacenter)
	}
	return id
}

func withOption(id connect.UpstreamID, name, value string) connect.UpstreamID {
	mark := "?"
	if strings.Contains(string(id), "?") {
		mark = "&"
	}
	return id + connect.UpstreamID(mark+name+"="+url.QueryEscape(value))
}

func listenOn(w wireUpstream) string {
	if w.LocalBindSocketPath != "" {
		return w.LocalBindSocketPath
	}
	if w.LocalBindAddress == "" {
		return strconv.Itoa(w.LocalBindPort)
	}
	return w.LocalBindAddress + ":" + strconv.Itoa(w.LocalBindPort)
}

// socketMode reads an octal mode. One that cannot be read is 0600: the umask
// might grant more than was asked for.
func socketMode(text string) (fs.FileMode, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || fs.FileMode(n)&^fs.ModePerm != 0 {
		return 0o600, fmt.Errorf("%q is not a file mode", text)
	}
	return fs.FileMode(n), nil
}

// balanceKey reads our own key outrider_lb, of an upstream or of the proxy.
func balanceKey(config opaque) string {
	name := config.text("outrider_lb")
	switch name {
	case "", "peak_ewma", "round_robin":
		return name
	}
	config.note("outrider_lb is %.40q, want peak_ewma or round_robin; it is ignored", name)
	return ""
}

// maxMemory reads our own key outrider_memory_mb, in bytes; 0 when there is none.
func maxMemory(config opaque) int64 {
	mb, _ := config.integer("outrider_memory_mb")
	return int64(mb) << 20
}

// passiveHealth reads passive_health_check.
func passiveHealth(config opaque) connect.PassiveHealth {
	h := connect.PassiveHealth{BaseEjectionTime: config.duration("base_ejection_time"), Interval: config.duration("interval")}
	h.MaxFailures, _ = config.integer("max_failures")
	h.MaxEjectionPercent, _ = config.integer("max_ejection_percent")
	h.MaxEjectionPercent = min(h.MaxEjectionPercent, 100)
	if percent, ok := config.integer("enforcing_consecutive_5xx"); ok {
		if h.Enforcing = min(percent, 100); percent == 0 {
			h.Enforcing = -1 // 0 would mean the default.
		}
	}
	h.BaseEjectionTime = min(h.BaseEjectionTime, 24*time.Hour)
	h.Interval = min(h.Interval, 24*time.Hour)
	return h
}
