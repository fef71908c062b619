// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	protocolHTTP = "http/protobuf"
	protocolGRPC = "grpc"

	defaultTimeout = 10 * time.Second // OpenTelemetry protocol exporter
	maxTimeout     = time.Minute
	// maxHeaders bounds what is sent along with every message.
	maxHeaders = 64
)

// A destination is a collector and how to speak with it.
type destination struct {
	url         string // whole, of the request
	grpc        bool
	headers     []pair // secret
	headersFile string // instead of headers; "" for none
	caFile      string // "" is the system's roots
	certFile    string // "" for none, as is keyFile
	keyFile     string
	gzip        bool
	timeout     time.Duration // of one request
}

// String leaves out what could be a secret.
func (d destination) String() string {
	u, err := url.Parse(d.url)
	if err != nil {
		return ""
	}
	protocol := protocolHTTP
	if d.grpc {
		protocol = protocolGRPC
	}
	return u.Scheme + "://" + u.Host + " (" + protocol + ")"
}

// configured is the destination of a telemetry block. The environment's
// OTEL_EXPORTER_OTLP_* have no part in it: headers that were meant for one
// collector must not reach another.
func configured(c Config) (destination, error) {
	d := destination{headersFile: c.HeadersFile, caFile: c.CAFile, timeout: defaultTimeout}
	u, err := endpoint(c.Endpoint)
	if err != nil {
		return d, fmt.Errorf("read otlp_endpoint of telemetry: %w", err)
	}
	err = d.reach(u, c.Protocol, true)
	if err != nil {
		return d, fmt.Errorf("read otlp_protocol of telemetry: %w", err)
	}
	return d, nil
}

// endpoint reads the URL of a collector.
func endpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL; write http:// or https://, the host and the port") // the text may hold a secret
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("it is not a URL of http or https with a host; write http://127.0.0.1:4318, for instance")
	case u.User != nil:
		return nil, errors.New("a user name or password in the URL would show; send an Authorization header instead")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("it has a query or a fragment; write only scheme, host, port and path")
	}
	return u, nil
}

// reach sets where requests go. Below a base, the path of OTLP is added.
func (d *destination) reach(u *url.URL, protocol string, base bool) error {
	to := *u
	switch cmp.Or(protocol, protocolHTTP) {
	case protocolHTTP:
		if base {
			to.Path = path.Join("/", to.Path, "v1/traces")
		} else if to.Path == "" {
			to.Path = "/"
		}
	case protocolGRPC:
		if strings.Trim(to.Path, "/") != "" {
			return errors.New("an endpoint of gRPC has no path; remove what follows the port")
		}
		d.grpc, to.Path = true, grpcMethod
	default:
		return fmt.Errorf("protocol %q is not supported; use %s or %s", protocol, protocolHTTP, protocolGRPC)
	}
	to.RawPath = ""
	d.url = to.String()
	return nil
}

// headerLines reads lines "Name: value". Empty ones and those that begin with #
// are skipped. Errors hold no value.
func headerLines(text string) ([]pair, error) {
	var out []pair
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %d has no colon; write Name: value", number)
		}
		h, err := header(name, value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if out = append(out, h); len(out) > maxHeaders {
			return nil, fmt.Errorf("there are more than %d headers", maxHeaders)
		}
	}
	return out, nil
}

// header checks one header to send along.
func header(name, value string) (pair, error) {
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !httpguts.ValidHeaderFieldName(name) {
		return pair{}, errors.New("what stands before the value is not the name of a header")
	}
	name = http.CanonicalHeaderKey(name)
	if !httpguts.ValidHeaderFieldValue(value) {
		return pair{}, fmt.Errorf("the value of header %s has characters that no header may have", name)
	}
	switch name {
	case "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Connection", "Host", "Te", "Trailer", "Upgrade",
		"Grpc-Encoding", "Grpc-Timeout":
		return pair{}, fmt.Errorf("header %s belongs to the protocol; remove it", name)
	}
	return pair{name, value}, nil
}
