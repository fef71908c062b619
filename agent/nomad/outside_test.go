// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// The host's /etc/hosts may give its name a loopback address, and a name server
// may answer anything: what counts is where the connection would go.
func TestOutsideIsNeverTheNetworkOfTheGroup(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"localhost", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"}
	for _, ip := range ownAddresses() {
		if !ip.IsLinkLocalUnicast() {
			hosts = append(hosts, ip.String())
		}
	}
	for _, host := range hosts {
		conn, err := DialOutside(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: connected to a listener of this network", host)
			continue
		}
		if !strings.Contains(err.Error(), "name an address of the host") {
			t.Errorf("%s: %v, want the remedy", host, err)
		}
	}
}

func TestOutsideGivesUpOnWhoDoesNotAnswer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// TEST-NET-1 of RFC 5737: no such host anywhere.
	if conn, err := DialOutside(ctx, "tcp", "192.0.2.1:8500"); err == nil {
		_ = conn.Close()
		t.Error("connected to an address of no host")
	} else if strings.Contains(err.Error(), "network of this group") {
		t.Errorf("refused: %v", err)
	}
}
