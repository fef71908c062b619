// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

type wireExposePath struct {
	ListenerPort  int
	Path          string
	LocalPathPort int
	Protocol      string
}

const (
	// maxExposed bounds the listeners that need no identity.
	maxExposed = 128
	// grpcHealth is the path of every gRPC health check (gRPC health checking
	// protocol).
	grpcHealth = "/grpc.health.v1.Health/Check"
)

// convertExpose reads the paths that anybody may call. One that is not clear is
// left out, which keeps it behind mTLS.
func convertExpose(list []wireExposePath, s connect.Service, warnings *[]string) []connect.ExposedPath {
	type place struct {
		port int
		path string
	}
	var paths []connect.ExposedPath
	seen := make(map[place]bool)
	for _, w := range list {
		p := connect.ExposedPath{ListenerPort: w.ListenerPort, Path: w.Path, LocalPathPort: w.LocalPathPort, Protocol: exposedProtocol(w.Protocol)}
		if p.LocalPathPort == 0 {
			p.LocalPathPort = s.LocalPort
		}
		reason := unexposable(p, s)
		switch {
		case reason != "":
		case seen[place{p.ListenerPort, p.Path}]:
			reason = "it is there twice"
		case len(paths) == maxExposed:
			reason = fmt.Sprintf("at most %d are served", maxExposed)
		}
		if reason != "" {
			*warnings = append(*warnings, fmt.Sprintf("exposed path %.80q is left out: %s", w.Path, reason))
			continue
		}
		seen[place{p.ListenerPort, p.Path}] = true
		paths = append(paths, p)
	}
	return paths
}

// exposedProtocol returns "" for what expose knows no word for.
func exposedProtocol(name string) connect.Protocol {
	switch strings.ToLower(name) {
	case "", "http":
		return connect.HTTP
	case "http2":
		return connect.HTTP2
	}
	return ""
}

// unexposable says why a path cannot be exposed, "" when it can.
func unexposable(p connect.ExposedPath, s connect.Service) string {
	switch {
	case !strings.HasPrefix(p.Path, "/") || len(p.Path) > maxText || strings.ContainsAny(p.Path, "?#") ||
		strings.ContainsFunc(p.Path, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "it is not a path that begins with \"/\" and has no query"
	case p.ListenerPort < 1 || p.ListenerPort > 65535:
		return fmt.Sprintf("listener port %d is not a port", p.ListenerPort)
	case p.ListenerPort == s.BindPort:
		return fmt.Sprintf("listener port %d is that of the inbound listener", p.ListenerPort)
	case p.LocalPathPort < 1 || p.LocalPathPort > 65535:
		return fmt.Sprintf("local path port %d is not a port", p.LocalPathPort)
	case p.Protocol == "":
		return "its protocol is neither http nor http2"
	}
	return ""
}

// ExposedChecks returns the ports at which the agent's health checks of a
// service look for the sidecar, by ID of the check: those that Consul has moved
// there because the registration says expose.checks. It is empty when there are
// none. Consul does not say what a check asks for; see [Definition.ExposedPaths].
func (c *Client) ExposedChecks(ctx context.Context, serviceID string) (map[string]int, error) {
	doing := fmt.Sprintf("read the exposed checks of service %q", serviceID)
	var list map[string]struct {
		ServiceID   string
		ExposedPort int
	}
	_, err := c.get(ctx, request{doing: doing, path: "/v1/agent/checks", needs: "service:read on the service of " + strconv.Quote(serviceID)}, watch.Cursor{}, &list)
	if err != nil {
		return nil, err
	}
	ports := make(map[string]int)
	for id, check := range list {
		if check.ServiceID != serviceID || check.ExposedPort == 0 {
			continue
		}
		if err := checkPort(check.ExposedPort); err != nil {
			return nil, fmt.Errorf("%s: check %q: %w", doing, id, err)
		}
		ports[id] = check.ExposedPort
	}
	return ports, nil
}

// AdvertiseAddress returns the IP address that the agent gives to its cluster
// (Consul, agent configuration: advertise). Its health checks come from there
// when they do not come over loopback. A token without agent:read will do when
// it may read the node, as that of a service identity may.
func (c *Client) AdvertiseAddress(ctx context.Context) (string, error) {
	const doing = "read the advertise address of the Consul agent"
	var self struct{ Member struct{ Addr string } }
	_, err := c.get(ctx, request{doing: doing, path: "/v1/agent/self", needs: "agent:read"}, watch.Cursor{}, &self)
	text := self.Member.Addr
	if denied(err) {
		text, err = c.nodeAddress(ctx, doing)
	}
	if err != nil {
		return "", err
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return "", fmt.Errorf("%s: it is %q, which is no IP address", doing, text)
	}
	return address.Unmap().String(), nil
}

// nodeAddress is the address of the agent's node in the catalog, which the agent
// has put there. Its checks tell the name of the node.
func (c *Client) nodeAddress(ctx context.Context, doing string) (string, error) {
	var list map[string]struct{ Node string }
	if _, err := c.get(ctx, request{doing: doing, path: "/v1/agent/checks", needs: "service:read"}, watch.Cursor{}, &list); err != nil {
		return "", err
	}
	for _, check := range list {
		if err := segment("node name", check.Node); err != nil {
			return "", fmt.Errorf("%s: %w", doing, err)
		}
		var answer struct{ Node struct{ Address string } }
		_, err := c.get(ctx, request{doing: doing, path: "/v1/catalog/node/" + check.Node, needs: fmt.Sprintf("agent:read or node:read on %q", check.Node)}, watch.Cursor{}, &answer)
		return answer.Node.Address, err
	}
	return "", fmt.Errorf("%s: the token may neither read it (agent:read) nor see a check that names the node (service:read)", doing)
}

// ExposedPaths says which paths the sidecar must serve for the health checks
// that Consul makes through it. ports is what [Client.ExposedChecks] returned
// for the service, allowFrom who may call besides loopback, usually
// [Client.AdvertiseAddress]. Checks without a port are not moved and need
// nothing. The warnings tell of checks that cannot be served, which fail.
func (d Definition) ExposedPaths(ports map[string]int, allowFrom []string) (paths []connect.ExposedPath, warnings []string) {
	for i, check := range d.Checks {
		id := d.checkID(i)
		port := ports[id]
		if port == 0 {
			continue
		}
		path, local, protocol, reason := check.target()
		exposed := connect.ExposedPath{ListenerPort: port, Path: path, LocalPathPort: local, Protocol: protocol, LocalOnly: true, AllowFrom: allowFrom}
		if reason == "" {
			reason = unexposable(exposed, connect.Service{})
		}
		if reason != "" {
			warnings = append(warnings, fmt.Sprintf("check %q cannot be served and will fail: %s", id, reason))
			continue
		}
		paths = append(paths, exposed)
	}
	return paths, warnings
}

// checkID is the ID that Consul gives to check i of the service.
func (d Definition) checkID(i int) string {
	switch {
	case d.Checks[i].ID != "":
		return d.Checks[i].ID
	case len(d.Checks) == 1:
		return "service:" + d.ServiceID()
	}
	return "service:" + d.ServiceID() + ":" + strconv.Itoa(i+1)
}

// target returns what a check asks the application for; reason says why that
// cannot be passed on.
func (c Check) target() (path string, port int, protocol connect.Protocol, reason string) {
	switch {
	case c.HTTP != "":
		return c.httpTarget()
	case c.GRPC == "":
		return "", 0, "", "it is neither an HTTP nor a gRPC check"
	case c.GRPCUseTLS:
		return "", 0, "", "it uses TLS: leave grpc_use_tls out"
	}
	// The name of the service stands behind a slash: "host:port/service".
	address, _, _ := strings.Cut(c.GRPC, "/")
	_, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil {
		return "", 0, "", fmt.Sprintf("%.80q is not the address of a gRPC server", c.GRPC)
	}
	return grpcHealth, port, connect.HTTP2, ""
}

func (c Check) httpTarget() (path string, port int, protocol connect.Protocol, reason string) {
	u, err := url.Parse(c.HTTP)
	switch {
	case err != nil:
		return "", 0, "", "its URL cannot be read"
	case u.Scheme == "https":
		return "", 0, "", "it uses TLS: check the application with http"
	case u.Scheme != "http":
		return "", 0, "", fmt.Sprintf("its URL has the scheme %.40q, want http", u.Scheme)
	}
	port = 80
	if u.Port() != "" {
		if port, err = strconv.Atoi(u.Port()); err != nil {
			return "", 0, "", "its URL has no port that can be read"
		}
	}
	return either(u.EscapedPath(), "/"), port, connect.HTTP, ""
}
