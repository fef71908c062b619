// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A Registration is what the registration of a sidecar says, merged with the
// defaults of the mesh.
type Registration struct {
	Service   connect.Service
	Upstreams []connect.Upstream // sorted by ID
	// ExposeChecks says that Consul makes the health checks of the service
	// through the sidecar; see [Client.ExposedChecks].
	ExposeChecks bool
	Warnings     []string // what is asked for and will not be done

	// Implied is what upstreams without a listener are given, by the name of the
	// service; "*" of all others.
	Implied map[string]connect.Upstream
}

// A wireService is one service of an agent. Proxy is nil for an application.
type wireService struct {
	Kind              string
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Address           string
	Port              int
	SocketPath        string
	TaggedAddresses   map[string]wireAddress
	Weights           Weights
	EnableTagOverride bool
	Namespace         string
	Partition         string
	Datacenter        string
	Proxy             *wireProxy
}

type wireProxy struct {
	DestinationServiceName string
	DestinationServiceID   string
	LocalServiceAddress    string
	LocalServicePort       int
	LocalServiceSocketPath string
	Mode                   string
	TransparentProxy       struct {
		OutboundListenerPort int
		DialedDirectly       bool
	}
	Config      map[string]any
	Upstreams   []wireUpstream
	MeshGateway struct{ Mode string }
	Expose      struct {
		Checks bool
		Paths  []wireExposePath
	}
	AccessLogs      wireAccessLogs
	EnvoyExtensions []struct{ Name string }
}

const (
	kindProxy = "connect-proxy"

	defaultLocalConnectTimeout = 5 * time.Second

	// maxUpstreams bounds the listeners and watches of one sidecar.
	maxUpstreams = 1024
)

// convertRegistration reads a sidecar's registration. datacenter is used when
// the registration names none, as that of old agents does.
func convertRegistration(w wireService, datacenter string) (Registration, error) {
	if w.Kind != kindProxy || w.Proxy == nil {
		return Registration{}, fmt.Errorf("service %q is of kind %q, want that of a sidecar, %q", w.ID, w.Kind, kindProxy)
	}
	if w.Proxy.DestinationServiceName == "" {
		return Registration{}, fmt.Errorf("sidecar %q names no service it stands for", w.ID)
	}
	if datacenter = either(w.Datacenter, datacenter); datacenter == "" {
		return Registration{}, fmt.Errorf("sidecar %q: Consul does not name its datacenter: set it in the configuration", w.ID)
	}
	if len(w.Proxy.Upstreams) > maxUpstreams {
		return Registration{}, fmt.Errorf("sidecar %q has %d upstreams, at most %d are served", w.ID, len(w.Proxy.Upstreams), maxUpstreams)
	}
	var r Registration
	config := opaque{where: "proxy config", values: w.Proxy.Config, notes: &r.Warnings}
	var err error
	if r.Service, err = convertService(w, config, datacenter); err != nil {
		return Registration{}, fmt.Errorf("sidecar %q: %w", w.ID, err)
	}
	r.Warnings = append(r.Warnings, unserved(w)...)
	r.Service.Expose = convertExpose(w.Proxy.Expose.Paths, r.Service, &r.Warnings)
	r.ExposeChecks = w.Proxy.Expose.Checks
	r.Upstreams = convertUpstreams(w.Proxy, r.Service, &r.Warnings)
	r.Implied = convertImplicit(w.Proxy, r.Service, &r.Warnings)
	return r, nil
}

func convertService(w wireService, config opaque, datacenter string) (connect.Service, error) {
	s := connect.Service{
		ID:                  either(w.Proxy.DestinationServiceID, w.Proxy.DestinationServiceName),
		ProxyID:             w.ID,
		Name:                w.Proxy.DestinationServiceName,
		Namespace:           orDefault(w.Namespace),
		Partition:           strings.ToLower(orDefault(w.Partition)),
		Datacenter:          datacenter,
		BindAddress:         either(config.text("bind_address"), either(w.Address, "0.0.0.0")),
		BindPort:            w.Port,
		LocalAddress:        either(w.Proxy.LocalServiceAddress, "127.0.0.1"),
		LocalPort:           w.Proxy.LocalServicePort,
		LocalSocketPath:     w.Proxy.LocalServiceSocketPath,
		LocalConnectTimeout: config.milliseconds("local_connect_timeout_ms"),
		LocalRequestTimeout: config.timeout("local_request_timeout_ms"),
		LocalIdleTimeout:    config.timeout("local_idle_timeout_ms"),
		MaxRequestHeaders:   maxHeaders(config),
		Protocol:            connect.TCP,
	}
	if name := config.text("protocol"); name != "" {
		if s.Protocol = protocol(name); s.Protocol == connect.TCP && !strings.EqualFold(name, "tcp") {
			config.note("protocol %q is not known and counts as tcp", name)
		}
	}
	if port, ok := config.integer("bind_port"); ok && port != 0 {
		s.BindPort = port
	}
	s.MaxInboundConnections, _ = config.integer("max_inbound_connections")
	s.MaxMemory = maxMemory(config)
	s.Telemetry = convertTelemetry(config)
	if s.LocalConnectTimeout == 0 {
		s.LocalConnectTimeout = defaultLocalConnectTimeout
	}
	if s.LocalPort == 0 && s.LocalSocketPath == "" {
		config.note("the application has no port and no socket: nobody can be let through to it")
	}
	s.Transparent = convertTransparent(w.Proxy, config)
	s.AccessLogs = convertAccessLogs(w.Proxy.AccessLogs, config)
	if _, err := netip.ParseAddr(s.BindAddress); err != nil {
		return s, fmt.Errorf("bind address %q is not an IP address: set bind_address in the proxy config", s.BindAddress)
	}
	if err := checkPort(s.BindPort); err != nil {
		return s, fmt.Errorf("bind port: %w", err)
	}
	if err := checkPort(s.LocalPort); err != nil {
		return s, fmt.Errorf("local service port: %w", err)
	}
	return s, nil
}

// maxHeaders reads max_request_headers_kb as bytes. Envoy takes no more than
// 8 MiB.
func maxHeaders(config opaque) int {
	const most = 8192
	kb, _ := config.integer("max_request_headers_kb")
	if kb > most {
		config.note("max_request_headers_kb is %d, at most %d is done", kb, most)
		kb = most
	}
	return kb << 10
}

func checkPort(port int) error {
	if port < 0 || port > 65535 {
		return fmt.Errorf("%d is not a port", port)
	}
	return nil
}

// unserved lists what a registration asks for that this proxy does not do.
func unserved(w wireService) []string {
	var warnings []string
	for _, e := range w.Proxy.EnvoyExtensions {
		warnings = append(warnings, fmt.Sprintf("Envoy extension %q is ignored: there is no Envoy", e.Name))
	}
	return append(warnings, escapeHatches("proxy config", w.Proxy.Config)...)
}

// escapeHatches names the keys that hold raw Envoy configuration.
func escapeHatches(where string, config map[string]any) []string {
	var warnings []string
	for key := range config {
		if name := plain(key); strings.HasPrefix(name, "envoy") && strings.HasSuffix(name, "json") {
			warnings = append(warnings, fmt.Sprintf("%s: %s is ignored: there is no Envoy", where, key))
		}
	}
	slices.Sort(warnings)
	return warnings
}

var errNoSidecar = errors.New("no sidecar is registered for the service")
