// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

const defaultAddress = "127.0.0.1:8500"

// parseAddress reads a Config's Address.
func parseAddress(address string) (base, error) {
	if address == "" {
		address = defaultAddress
	}
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "http", address
	}
	switch scheme {
	case "unix":
		if rest == "" {
			return base{}, fmt.Errorf("consul address %q names no socket: want unix:///path/of/socket", address)
		}
		return base{scheme: "http", host: "localhost", socket: rest}, nil
	case "http", "https":
		u, err := url.Parse(scheme + "://" + rest)
		if err != nil {
			return base{}, fmt.Errorf("consul address: %w", withoutURL(err))
		}
		if u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return base{}, errors.New("consul address: want host:port, http(s)://host:port or unix:///path, without user and query")
		}
		return base{scheme: scheme, host: u.Host, prefix: strings.TrimSuffix(u.Path, "/")}, nil
	}
	return base{}, fmt.Errorf("consul address: scheme %q is not known: want host:port, http://, https:// or unix://", scheme)
}

// withoutURL strips the address from an error of package url: it may hold a
// password.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// private reports whether what Consul says cannot be read on a network.
func (b base) private() bool {
	if b.socket != "" || b.scheme == "https" {
		return true
	}
	host := b.host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback()
}
