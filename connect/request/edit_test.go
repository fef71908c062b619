// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func facts() *Facts {
	return &Facts{
		Downstream:      netip.MustParseAddrPort("[::ffff:192.0.2.7]:4711"),
		DownstreamLocal: netip.MustParseAddrPort("[2001:db8::1]:8443"),
		Protocol:        "HTTP/2",
		Start:           time.Date(2024, 3, 1, 13, 4, 5, 678_900_000, time.FixedZone("", 3600)),
		Hostname:        "vm-1",
		Peer:            connect.Identity{TrustDomain: "td.consul", Partition: "default", Namespace: "ns1", Datacenter: "dc1", Service: "web"},
		Request: &connect.Head{
			Method: "GET", Scheme: "http", Authority: "api.test", Path: "/x?y",
			Header: connect.Header{"X-Id": {"42"}, "X-List": {"a", "b"}, "X-Evil": {"a\r\nSet-Cookie: b\x00\tc"}, "X-Long": {strings.Repeat("l", maxValue)}},
		},
		Response: connect.Header{"Server": {"app"}},
		Status:   503, Upstream: "10.0.0.1:21000",
	}
}

func TestFormatCommands(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                       "plain",
		"100%%":                       "100%",
		"%DOWNSTREAM_REMOTE_ADDRESS%": "192.0.2.7:4711",
		"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%":        "192.0.2.7",
		"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%": "192.0.2.7",
		"%DOWNSTREAM_REMOTE_PORT%":                        "4711",
		"%DOWNSTREAM_LOCAL_ADDRESS%":                      "[2001:db8::1]:8443",
		"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%":         "2001:db8::1",
		"%DOWNSTREAM_LOCAL_PORT%":                         "8443",
		"%PROTOCOL%":                                      "HTTP/2",
		"%START_TIME%":                                    "2024-03-01T12:04:05.678Z",
		"%HOSTNAME%":                                      "vm-1",
		"%REQ(x-id)%":                                     "42",
		"%REQ(X-LIST)%":                                   "a,b",
		"%REQ(X-NONE)%":                                   "",
		"%REQ(X-NONE?x-id)%":                              "42",
		"%REQ(X-ID?x-none)%":                              "42",
		"%REQ(:path)%":                                    "/x?y",
		"%REQ(:AUTHORITY):3%":                             "api",
		"%REQ(host)%":                                     "api.test",
		"%REQ(x-id):1%-%REQ(x-id):9%":                     "4-42",
		"%RESP(server)%":                                  "app",
		"%RESP(x?y)%":                                     "",
		"%RESPONSE_CODE%":                                 "503",
		"%UPSTREAM_HOST%":                                 "10.0.0.1:21000",
		"%UPSTREAM_REMOTE_ADDRESS%":                       "10.0.0.1:21000",
		"%DOWNSTREAM_PEER_URI_SAN%":                       "spiffe://td.consul/ns/ns1/dc/dc1/svc/web",
		"%DYNAMIC_METADATA(consul:service)%":              "web",
		"%DYNAMIC_METADATA(consul:trust-domain):2%":       "td",
		"%DYNAMIC_METADATA(consul:partition)%":            "default",
		"a %PROTOCOL% %% %HOSTNAME%b":                     "a HTTP/2 % vm-1b",
		"%DYNAMIC_METADATA(consul:namespace)%/%DYNAMIC_METADATA(consul:datacenter)%": "ns1/dc1",
		// From the request, and not one field more.
		"%REQ(x-evil)%": "aSet-Cookie: b\tc",
		// Too long together, so nothing.
		"%REQ(x-long)%x": "",
		"x\r\ny\x00":     "xy",
	} {
		f, problems := parseFormat(in)
		if len(problems) > 0 {
			t.Errorf("%s: %q", in, problems)
		}
		if got := f.value(facts()); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestWhatIsNotAFormatCommandStaysAndIsNamed(t *testing.T) {
	for in, want := range map[string]string{
		"%START_TIME(%s)%":                "%START_TIME(%s)%",
		"%NO_SUCH%":                       "%NO_SUCH%",
		"a%NO_SUCH(x?y):3%b":              "a%NO_SUCH(x?y):3%b",
		"%DYNAMIC_METADATA(other:key)%":   "%DYNAMIC_METADATA(other:key)%",
		"%DYNAMIC_METADATA(consul:node)%": "%DYNAMIC_METADATA(consul:node)%",
		"%REQ()%":                         "%REQ()%",
		"%REQ(a?)%":                       "%REQ(a?)%",
		"%REQ%":                           "%REQ%",
		"%REQ(a":                          "%REQ(a",
		"%REQ(a):0%":                      "%REQ(a):0%",
		"%PROTOCOL:3%":                    "%PROTOCOL:3%",
		"50% off":                         "50% off",
		"%":                               "%",
		"%lower%%":                        "%lower%",
		"%PROTOCOL":                       "%PROTOCOL",
		"% %HOSTNAME%":                    "% vm-1",
	} {
		f, problems := parseFormat(in)
		if len(problems) == 0 {
			t.Errorf("%s: no warning", in)
		}
		if got := f.value(facts()); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestNothingKnownMakesNoField(t *testing.T) {
	e, _, err := CompileEdits(connect.HeaderEdits{
		Set: map[string]string{"x-a": "%REQ(x)%", "x-b": "%DOWNSTREAM_REMOTE_ADDRESS%", "x-c": "%START_TIME%", "x-d": "", "X-Kept": "%PROTOCOL%"},
		Add: map[string]string{"x-e": "%DOWNSTREAM_PEER_URI_SAN%", "x-f": "%RESP(a)%", "x-g": "%UPSTREAM_HOST%", "x-h": "%DYNAMIC_METADATA(consul:service)%"},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := connect.Header{"X-Kept": {"old"}}
	e.Apply(h, nil)
	if diff := cmp.Diff(connect.Header{"X-Kept": {"old"}}, h); diff != "" {
		t.Error(diff)
	}
}

func TestEditsRemoveThenSetThenAdd(t *testing.T) {
	e, warnings, err := CompileEdits(connect.HeaderEdits{
		Remove: []string{"x-gone", "x-back"},
		Set:    map[string]string{"x-back": "new", "x-both": "set", "x-swap": "%REQ(x-both)%", "x-lost": "%REQ(x-gone)%"},
		Add:    map[string]string{"x-both": "add", "x-more": "3", "X-Fresh": "1"},
	})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	more := []string{"1", "2", "untouched"}
	h := connect.Header{"X-Gone": {"1"}, "X-Back": {"old"}, "X-Both": {"old", "old"}, "X-More": more[:2], "X-Other": {"1"}}
	e.Apply(h, &Facts{Request: &connect.Head{Header: h}})
	want := connect.Header{
		"X-Back": {"new"}, "X-Both": {"set", "add"}, "X-Swap": {"old,old"},
		"X-More": {"1", "2", "3"}, "X-Fresh": {"1"}, "X-Other": {"1"},
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if more[2] != "untouched" {
		t.Error("an edit wrote into a slice that others hold")
	}
}

func TestFieldsThatAreNotForEditsAreLeftAlone(t *testing.T) {
	names := []string{
		":path", ":authority", ":x", "host", "HOST", "Content-Length", "transfer-encoding", "Connection", "keep-alive",
		"proxy-connection", "TE", "trailer", "upgrade", "http2-settings", "", "a b", "a:b", "x\r\ny", "é",
	}
	for _, name := range names {
		for _, in := range []connect.HeaderEdits{
			{Remove: []string{name}}, {Set: map[string]string{name: "1"}}, {Add: map[string]string{name: "1"}},
		} {
			e, warnings, err := CompileEdits(in)
			if err != nil {
				t.Fatal(err)
			}
			if !e.Empty() || len(warnings) != 1 {
				t.Errorf("%q: %+v, warnings %q", name, e, warnings)
			}
		}
	}
}

func TestTooManyEditsAreAnError(t *testing.T) {
	in := connect.HeaderEdits{Remove: make([]string, maxEdits+1)}
	if _, _, err := CompileEdits(in); err == nil {
		t.Error("no error")
	}
}
