// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// answers waits until a GET gets a status, and returns what the application saw.
func (c hclient) answers(t *testing.T, path string, status int) report {
	t.Helper()
	var seen report
	until(t, fmt.Sprintf("GET %s is answered with %d", path, status), func() error {
		got, r, err := c.send(t, http.MethodGet, path, nil, nil)
		if err != nil {
			return err
		}
		if got != status {
			return fmt.Errorf("status %d", got)
		}
		seen = r
		return nil
	})
	return seen
}

func testHTTPMatrix(t *testing.T, protocol string, two bool) {
	m := newMatrix(t, protocol, httpApp)
	m.each(t, func(t *testing.T, caller, callee string, port int) {
		client := newHTTPClient(port, two)
		client.answers(t, "/", http.StatusOK)
		t.Run("GET", func(t *testing.T) { getIsPassedOn(t, client, "api-"+callee) })
		t.Run("POST", func(t *testing.T) { bodyIsPassedOn(t, client) })
		t.Run("XFCC", func(t *testing.T) { callerIsNamed(t, client, "web-"+caller) })
	})
}

func TestEnvoyAndOutriderCallEachOtherOverHTTP1(t *testing.T) {
	t.Parallel()
	testHTTPMatrix(t, "http", false)
}

func TestEnvoyAndOutriderCallEachOtherOverHTTP2(t *testing.T) {
	t.Parallel()
	testHTTPMatrix(t, "http2", true)
}

func getIsPassedOn(t *testing.T, client hclient, server string) {
	status, seen, err := client.send(t, http.MethodGet, "/a/b%20c?x=1&y=%2F", http.Header{"X-Asked": {"one", "two"}}, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("status %d: %v", status, err)
	}
	if seen.Server != server || seen.Method != http.MethodGet || seen.Target != "/a/b%20c?x=1&y=%2F" {
		t.Errorf("the application saw %+v", seen)
	}
	if got := strings.Join(seen.Header["X-Asked"], ","); got != "one,two" {
		t.Errorf("x-asked is %q", got)
	}
}

func bodyIsPassedOn(t *testing.T, client hclient) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	status, seen, err := client.send(t, http.MethodPost, "/upload", nil, bytes.NewReader(body))
	if err != nil || status != http.StatusOK {
		t.Fatalf("status %d: %v", status, err)
	}
	if seen.Method != http.MethodPost || seen.Length != len(body) || seen.Digest != digest(body) {
		t.Errorf("the application saw %s of %d bytes, digest %s", seen.Method, seen.Length, seen.Digest)
	}
}

// callerIsNamed expects who called in x-forwarded-client-cert, and nothing of
// what the calling application wrote there itself.
func callerIsNamed(t *testing.T, client hclient, caller string) {
	forged := http.Header{"X-Forwarded-Client-Cert": {"URI=spiffe://forged.consul/ns/default/dc/dc1/svc/admin"}}
	status, seen, err := client.send(t, http.MethodGet, "/who", forged, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("status %d: %v", status, err)
	}
	xfcc := strings.Join(seen.Header["X-Forwarded-Client-Cert"], ",")
	if !strings.Contains(xfcc, "/ns/default/dc/dc1/svc/"+caller) || !strings.Contains(xfcc, "URI=spiffe://") {
		t.Errorf("x-forwarded-client-cert does not name %s: %q", caller, xfcc)
	}
	var keys []string
	for part := range strings.SplitSeq(xfcc, ";") {
		key, _, _ := strings.Cut(part, "=")
		keys = append(keys, key)
	}
	// Envoy's own parts, in Envoy's order.
	if got := strings.Join(keys, " "); got != "By Hash Cert Chain Subject URI" {
		t.Errorf("x-forwarded-client-cert has the parts %s", got)
	}
	if strings.Contains(xfcc, "forged") {
		t.Errorf("x-forwarded-client-cert holds what the caller wrote: %q", xfcc)
	}
}

func TestEnvoyAndOutriderDenyByPathAndMethod(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, "http", httpApp)
	for _, callee := range sides {
		writeConfig(t, m.consul, fmt.Sprintf(`{"Kind":"service-intentions","Name":"api-%s","Sources":[
			{"Name":"*","Permissions":[
				{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},
				{"Action":"allow","HTTP":{"PathPrefix":"/","Methods":["GET"]}},
				{"Action":"deny","HTTP":{"PathPrefix":"/"}}]}]}`, callee))
	}
	m.each(t, func(t *testing.T, caller, callee string, port int) {
		client := newHTTPClient(port, false)
		client.answers(t, "/admin/x", http.StatusForbidden)
		client.answers(t, "/free", http.StatusOK)
		for _, c := range []struct {
			method, path string
			want         int
		}{
			{http.MethodGet, "/x/../admin", http.StatusForbidden},
			{http.MethodGet, "/%61dmin", http.StatusForbidden},
			{http.MethodGet, "/Admin", http.StatusOK},
			{http.MethodPost, "/free", http.StatusForbidden},
			{http.MethodDelete, "/admin", http.StatusForbidden},
		} {
			status, _, err := client.send(t, c.method, c.path, nil, nil)
			if err != nil || status != c.want {
				t.Errorf("%s %s: status %d, want %d: %v", c.method, c.path, status, c.want, err)
			}
		}
	})
}
