// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"crypto/tls"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// call is an inbound request that the application has answered.
func call() *flow.Record {
	return &flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Snapshot: 7, Service: "api", ProxyID: "api-sidecar-proxy",
		Source:   connect.Identity{TrustDomain: "td.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web", Peer: "east"},
		Endpoint: "127.0.0.1:9090", Downstream: netip.MustParseAddrPort("[::ffff:10.0.0.7]:4711"), DownstreamLocal: netip.MustParseAddrPort("10.0.0.8:21000"),
		UpstreamLocal: netip.MustParseAddrPort("127.0.0.1:55622"), TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, ServerName: "api.default.dc1.internal.td.consul"},
		Method: "GET", Authority: "api.test", Path: "/rw?a=b&token=hush", OriginalPath: "//rw?a=b&token=hush", Protocol: "HTTP/1.1", Status: 200,
		RequestHeader: connect.Header{
			"User-Agent": {`curl "8" \ é`}, "X-Request-Id": {"42"}, "Authorization": {"Bearer hush"}, "Cookie": {"sid=hush"}, "X-List": {"a", "b"},
			"X-Evil": {"a\n{\"reason\":\"forged\"}\r\x1b[31m\u009b\u2028\x00\xff"}, "Referer": {"http://a/b?session_id=hush&q=1"}, "X-House": {"hush"},
			"X-Long": {strings.Repeat("é", maxValue)}, "X-Envoy-Original-Path": {"/forged"},
		},
		ResponseHeader: connect.Header{"Set-Cookie": {"sid=hush"}, "Server": {"app"}},
		TraceID:        "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331",
		Judged: true, Allowed: true, Intention: "web → api", Precedence: 9, Permission: 2, RuleIndex: 0,
		Start: time.Date(2026, 11, 7, 17, 4, 8, 469_894_001, time.FixedZone("", 3600)), Handshake: 900 * time.Microsecond,
		FirstByte: 8500 * time.Microsecond, Duration: 9700 * time.Microsecond, Sent: 12, Received: 345,
		Tries: []flow.Try{{Endpoint: "127.0.0.1:9090", Took: 7900 * time.Microsecond, Status: 200}},
	}
}

// made is the line of a record, with its end.
func made(f *Format, r *flow.Record) []byte {
	var e Entry
	f.Take(&e, r)
	return e.Append(nil)
}

// line compiles a format and returns the line of a record without its end.
func line(t *testing.T, logs connect.AccessLogs, r *flow.Record) string {
	t.Helper()
	logs.Enabled = true
	f, warnings := Compile(logs, Facts{Hostname: "vm-1", Identity: "spiffe://td.consul/ns/default/dc/dc1/svc/api", Secrets: []string{"x-house"}})
	if len(warnings) > 0 {
		t.Errorf("warnings %q", warnings)
	}
	out := string(made(f, r))
	body, ended := strings.CutSuffix(out, "\n")
	if !ended || strings.ContainsAny(body, "\n\r") {
		t.Errorf("not one line: %q", out)
	}
	return body
}

func TestDefaultLineHasConsulsKeysAndOurs(t *testing.T) {
	t.Parallel()
	want := `{"authority":"api.test","bytes_received":12,"bytes_sent":345,"connection_termination_details":null,"direction":"inbound",` +
		`"downstream_local_address":"10.0.0.8:21000","downstream_remote_address":"10.0.0.7:4711","duration":9,"intention":"web → api",` +
		`"method":"GET","path":"//rw","protocol":"HTTP/1.1","reason":null,"request_id":"42",` +
		`"requested_server_name":"api.default.dc1.internal.td.consul","response_code":200,"response_code_details":"via_upstream","response_flags":"-",` +
		`"route_name":null,"service":"api","source":"east/web","start_time":"2026-11-07T16:04:08.469Z","upstream_cluster":"local_app","upstream_host":"127.0.0.1:9090",` +
		`"upstream_local_address":"127.0.0.1:55622","upstream_service_time":"7","upstream_transport_failure_reason":null,` +
		`"user_agent":"curl \"8\" \\ é","x_forwarded_for":null}`
	got := line(t, connect.AccessLogs{}, call())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(got, "hush") {
		t.Error("it holds a secret")
	}
}

func TestLineOfADeniedConnection(t *testing.T) {
	t.Parallel()
	r := &flow.Record{
		Kind: flow.Connection, Direction: flow.Inbound, Service: "api", Source: connect.Identity{Service: "web"}, Downstream: netip.MustParseAddrPort("10.0.0.7:4711"),
		Judged: true, Intention: "default policy", RuleIndex: -1, Reason: connect.IntentionDenied, Start: call().Start, Duration: time.Millisecond,
	}
	want := `{"authority":null,"bytes_received":0,"bytes_sent":0,"connection_termination_details":"rbac_access_denied_matched_policy[none]","direction":"inbound",` +
		`"downstream_local_address":null,"downstream_remote_address":"10.0.0.7:4711","duration":1,"intention":"default policy",` +
		`"method":null,"path":null,"protocol":null,"reason":"intention_denied","request_id":null,` +
		`"requested_server_name":null,"response_code":0,"response_code_details":null,"response_flags":"UAEX",` +
		`"route_name":null,"service":"api","source":"web","start_time":"2026-11-07T16:04:08.469Z","upstream_cluster":"local_app","upstream_host":null,` +
		`"upstream_local_address":null,"upstream_service_time":null,"upstream_transport_failure_reason":null,"user_agent":null,"x_forwarded_for":null}`
	if diff := cmp.Diff(want, line(t, connect.AccessLogs{}, r)); diff != "" {
		t.Error(diff)
	}
}

// The wanted line is what Envoy 1.36.4 wrote for such a request with this format,
// but for the times, which are the record's.
func TestLineIsWhatEnvoyWrites(t *testing.T) {
	t.Parallel()
	const format = `{"zz_start":"%START_TIME%","start_s":"%START_TIME(%s)%","start_f":"%START_TIME(%Y-%m-%dT%H:%M:%S.%3f %6f %9f %f %1f %e %b %z %Z %%)%",
		"start_x":"%START_TIME(%s.%3f)%","route_name":"%ROUTE_NAME%","method":"%REQ(:METHOD)%","path":"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%","path3":"%REQ(:PATH):3%",
		"flags":"%RESPONSE_FLAGS%","flags_long":"%RESPONSE_FLAGS_LONG%","evil":"%REQ(X-EVIL)%","none":"%REQ(X-NONE)%","uhost":"%UPSTREAM_HOST%","ucluster":"%UPSTREAM_CLUSTER%",
		"dlp":"%DOWNSTREAM_LOCAL_PORT%","drp":"%DOWNSTREAM_REMOTE_PORT%","urp":"%UPSTREAM_REMOTE_PORT%","attempts":"%UPSTREAM_REQUEST_ATTEMPT_COUNT%","grpc":"%GRPC_STATUS%",
		"grpcn":"%GRPC_STATUS_NUMBER%","meta":"%DYNAMIC_METADATA(outrider:reason)%","mixed":"a %RESPONSE_CODE% b %REQ(X-NONE)%","num":3,"bool":true,
		"nested":{"a":"%PROTOCOL%","b":[1,"%DURATION%"]},"pct":"100%%","tls":"%DOWNSTREAM_TLS_VERSION%","san":"%DOWNSTREAM_PEER_URI_SAN%","q":"%QUERY_PARAM(a)%",
		"pathnq":"%PATH(NQ)%","pathwq":"%PATH(WQ)%","logtype":"%ACCESS_LOG_TYPE%","common":"%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%","host":"%HOSTNAME%","trace":"%TRACE_ID%",
		"respdur":"%RESPONSE_DURATION%","resptx":"%RESPONSE_TX_DURATION%"}`
	const want = `{"attempts":1,"bool":true,"common":9139,"dlp":18080,"drp":37386,"evil":"a\"b\\c\td","flags":"-","flags_long":"-","grpc":null,"grpcn":null,"host":"vm-1",` +
		`"logtype":"DownstreamEnd","meta":null,"method":"GET","mixed":"a 200 b -","nested":{"a":"HTTP/1.1","b":[1,9]},"none":null,"num":3,"path":"/app?a=b","path3":"/ap",` +
		`"pathnq":"/app","pathwq":"/app?a=b","pct":"100%","q":"b","respdur":8,"resptx":0,"route_name":null,"san":null,` +
		`"start_f":"2026-11-21T17:30:08.469 469894 469894000 469894000 4 21 Nov +0000 UTC %","start_s":"1795282208","start_x":"1795282208.469","tls":null,"trace":null,` +
		`"ucluster":"app","uhost":"127.0.0.1:18090","urp":18090,"zz_start":"2026-11-21T17:30:08.469Z"}`
	r := &flow.Record{
		Kind: flow.Request, Direction: flow.Outbound, Target: "app", Endpoint: "127.0.0.1:18090", Downstream: netip.MustParseAddrPort("127.0.0.1:37386"),
		DownstreamLocal: netip.MustParseAddrPort("127.0.0.1:18080"), Method: "GET", Path: "/app?a=b", Protocol: "HTTP/1.1", Status: 200,
		RequestHeader: connect.Header{"X-Evil": {"a\"b\\c\td"}}, Start: time.Unix(1795282208, 469_894_000), FirstByte: 8900 * time.Microsecond, Duration: 9139 * time.Microsecond,
	}
	if diff := cmp.Diff(want, line(t, connect.AccessLogs{JSONFormat: format}, r)); diff != "" {
		t.Error(diff)
	}
}

func TestTextLine(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{
		"plain 100%%\n":                 "plain 100%",
		"%REQ(X-NONE)% %RESPONSE_CODE%": "- 200",
		"[%START_TIME(%F %T.%6f)%] \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\"":   `[2026-11-07 16:04:08.469894] "GET /rw?a=b&token=[redacted] HTTP/1.1"`,
		"%REQ(X-LIST)% %REQ(X-NONE?X-LIST):2% %REQ(HOST)% %REQ(:scheme)%":        "a,b a, api.test http",
		"%REQ(X-ENVOY-ORIGINAL-PATH):2% %PATH(NQ:PATH)% %PATH(WQ:ORIG)%":         "// /rw //rw?a=b&token=[redacted]",
		"%RESP(SERVER)% %RESP(:STATUS)% %RESP(SET-COOKIE)% %RESP(X)%":            "app 200 [redacted] -",
		"%REQ(AUTHORIZATION)% %REQ(COOKIE)% %REQ(X-HOUSE)% %QUERY_PARAM(token)%": "[redacted] [redacted] [redacted] [redacted]",
		"%REQ(REFERER)% %REQ_WITHOUT_QUERY(REFERER)%":                            "http://a/b?session_id=[redacted]&q=1 http://a/b",
		"%REQ(USER-AGENT)%": `curl \"8\" \\ é`,
		"%REQ(X-EVIL)%|":    `a\n{\"reason\":\"forged\"}\r\x1b[31m\u009b\u2028\x00` + "\ufffd|",
		"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_ADDRESS%":           "10.0.0.7 10.0.0.8:21000",
		"%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_LOCAL_PORT%":                  "127.0.0.1 55622",
		"%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_LOCAL_URI_SAN%":                          "spiffe://td.consul/ns/default/dc/dc1/svc/web spiffe://td.consul/ns/default/dc/dc1/svc/api",
		"%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%":                              "TLSv1.3 TLS_AES_128_GCM_SHA256",
		"%DYNAMIC_METADATA(consul:service)% %DYNAMIC_METADATA(consul:datacenter)%":      "web dc1",
		"%DYNAMIC_METADATA(outrider:permission)% %DYNAMIC_METADATA(outrider:snapshot)%": "2 7",
		"%HOSTNAME% %TRACE_ID% %DYNAMIC_METADATA(outrider:handshake_us)%":               "vm-1 0af7651916cd43dd8448eb211c80319c 900",
	} {
		if got := line(t, connect.AccessLogs{TextFormat: format}, call()); got != want {
			t.Errorf("%s:\n got %s\nwant %s", format, got, want)
		}
	}
}

func TestWhatCallersSendForgesNoLineOfJSON(t *testing.T) {
	t.Parallel()
	got := line(t, connect.AccessLogs{JSONFormat: `{"evil":"%REQ(X-EVIL)%","in":"<%REQ(X-EVIL)%>","key\n\"":1}`}, call())
	var fields map[string]any
	if err := json.Unmarshal([]byte(got), &fields); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	evil := "a\n{\"reason\":\"forged\"}\r\x1b[31m\u009b\u2028\x00\ufffd"
	if diff := cmp.Diff(map[string]any{"evil": evil, "in": "<" + evil + ">", "key\n\"": 1.0}, fields); diff != "" {
		t.Error(diff)
	}
	if strings.ContainsAny(got, "\x1b\u009b\u2028\x00") {
		t.Errorf("control characters in %q", got)
	}
}

func TestLongValuesAreCut(t *testing.T) {
	t.Parallel()
	got := line(t, connect.AccessLogs{TextFormat: "%REQ(X-LONG)%|%REQ(X-LONG):3%"}, call())
	if want := strings.Repeat("é", maxValue/2) + "…|é"; got != want {
		t.Errorf("%d bytes: %.20s … %s", len(got), got, got[max(0, len(got)-20):])
	}
}

func TestWhatCannotBeAnsweredYieldsNothingAndWarns(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]string{
		"%NO_SUCH%": "%NO_SUCH% is not known", "%TRAILER(X)%": "not recorded", "%REQUEST_DURATION%": "not recorded", "%REQ()%": "not known", "%REQ(a?)%": "not known",
		"%DYNAMIC_METADATA(other:key)%": "not known", "%DYNAMIC_METADATA(outrider:no)%": "not known", "%DYNAMIC_METADATA(consul:no)%": "not known",
		"%ENVIRONMENT(CONSUL_HTTP_TOKEN)%": "may be secret", "%PROTOCOL(x)%": "not known", "%COMMON_DURATION(A:B:ms)%": "not known", "%PATH(X)%": "not known",
		"%GRPC_STATUS(x)%": "not known", "%DOWNSTREAM_PEER_CERT%": "not recorded", "%QUERY_PARAM()%": "not known", "%DURATION:3%": "not known",
	} {
		f, warnings := Compile(connect.AccessLogs{Enabled: true, JSONFormat: `{"a":"` + command + `","b":"x` + command + `"}`}, Facts{})
		if got := string(made(f, call())); got != `{"a":null,"b":"x-"}`+"\n" {
			t.Errorf("%s: %s", command, got)
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], want) {
			t.Errorf("%s: warnings %q", command, warnings)
		}
	}
	for _, format := range []string{"50% off", "%", "%lower%", "%REQ(a", "%START_TIME(%Q)%"} {
		if _, warnings := Compile(connect.AccessLogs{Enabled: true, TextFormat: format}, Facts{}); len(warnings) == 0 {
			t.Errorf("%s: no warning", format)
		}
	}
}

func TestAFormatThatCannotBeReadIsTheDefaultOne(t *testing.T) {
	t.Parallel()
	want := line(t, connect.AccessLogs{}, call())
	for name, logs := range map[string]connect.AccessLogs{
		"an array":          {JSONFormat: `[1]`},
		"null":              {JSONFormat: `null`},
		"no JSON":           {JSONFormat: `{"a":`},
		"two objects":       {JSONFormat: `{} {}`},
		"too deep":          {JSONFormat: `{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`},
		"too long":          {TextFormat: strings.Repeat("x", maxFormat+1)},
		"too many commands": {TextFormat: strings.Repeat("%PROTOCOL%", maxCommands+1)},
	} {
		logs.Enabled = true
		f, warnings := Compile(logs, Facts{})
		if got := strings.TrimSuffix(string(made(f, call())), "\n"); got != want {
			t.Errorf("%s: %s", name, got)
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], "default format") {
			t.Errorf("%s: warnings %q", name, warnings)
		}
	}
	if f, warnings := Compile(connect.AccessLogs{TextFormat: "%"}, Facts{}); f != nil || warnings != nil {
		t.Error("a format although none is asked for")
	}
}

func TestWhichRecordsMakeALine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r             flow.Record
		want, without bool
	}{
		"request":                        {flow.Record{Kind: flow.Request}, true, true},
		"connection of TCP":              {flow.Record{}, true, true},
		"denied connection of TCP":       {flow.Record{Reason: connect.IntentionDenied}, true, true},
		"connection without a route":     {flow.Record{Reason: connect.NoRoute}, true, false},
		"connection with requests":       {flow.Record{HTTP: true, Requests: 2, Reason: connect.IntentionDenied}, false, false},
		"idle connection of HTTP":        {flow.Record{HTTP: true}, false, false},
		"HTTP refused before a request":  {flow.Record{HTTP: true, Reason: connect.TLSFailed}, true, false},
		"HTTP given up before a request": {flow.Record{HTTP: true, Reason: connect.TLSFailed, Gone: true}, false, false},
	} {
		for _, without := range []bool{false, true} {
			f, _ := Compile(connect.AccessLogs{Enabled: true, NoListenerLogs: without}, Facts{})
			want := tc.want
			if without {
				want = tc.without
			}
			if got := f.Wants(&tc.r); got != want {
				t.Errorf("%s, without listener logs %t: %t", name, without, got)
			}
		}
	}
}

func TestEntryThatIsUsedAgainAllocatesNothing(t *testing.T) {
	f, _ := Compile(connect.AccessLogs{Enabled: true}, Facts{})
	r, buf := call(), make([]byte, 0, 4096)
	r.RequestHeader["User-Agent"] = []string{"curl \"x\""}
	var e Entry
	if n := testing.AllocsPerRun(100, func() {
		f.Take(&e, r)
		buf = e.Append(buf[:0])
		e.Clear()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// net/http goes on with the headers, and the proxy with the memory of the tries.
func TestEntryIsNotOfTheRecordAnyMore(t *testing.T) {
	t.Parallel()
	f, warnings := Compile(connect.AccessLogs{Enabled: true, TextFormat: "%REQ(NO?USER-AGENT)% %REQ(NO)% %REQ(COOKIE)% %RESP(SERVER):2% %REQ(:PATH)% %UPSTREAM_TRANSPORT_FAILURE_REASON% %REQ(LONG)%"}, Facts{})
	if len(warnings) > 0 {
		t.Fatal(warnings)
	}
	r := call()
	r.RequestHeader["User-Agent"], r.RequestHeader["Cookie"] = []string{"a", "b"}, []string{"sid=hush"}
	r.RequestHeader["Long"] = []string{strings.Repeat("x", 2*maxValue)}
	r.Direction, r.Reason, r.Tries = flow.Outbound, connect.ConnectFailed, []flow.Try{{Error: "no way"}}
	want := `a,b - [redacted] ap /rw?a=b&token=[redacted] no way ` + strings.Repeat("x", maxValue) + "…\n"
	var e Entry
	for range 2 { // into memory that is used again, too
		r.RequestHeader["User-Agent"][0], r.Tries[0].Error = "a", "no way"
		f.Take(&e, r)
		r.RequestHeader["User-Agent"][0], r.Tries[0].Error = "changed", "changed"
		if got := string(e.Append(nil)); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if size := e.Size(); size < maxValue || size > 4*maxValue {
			t.Errorf("its size is %d", size)
		}
		e.Clear()
	}
	if e.record.Path != "" || e.format != nil || e.record.Tries[:1][0].Error != "" {
		t.Errorf("a cleared entry holds %+v", e.record)
	}
}

func TestNamesOfSecretsAreKnown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Authorization", "proxy-authorization", "Cookie", "Set-Cookie", "X-Consul-Token", "X-Vault-Token", "x-api-key", "X-Amz-Security-Token", "X-Forwarded-Client-Cert", "X-Auth-Password", "X-Auth-Key", "X-Access-Key"} {
		if !Secret(name) {
			t.Errorf("%s counts as no secret", name)
		}
	}
	for _, name := range []string{"User-Agent", "X-Request-Id", "X-Forwarded-For", "Content-Type", "Accept", "Traceparent"} {
		if Secret(name) {
			t.Errorf("%s counts as a secret", name)
		}
	}
	r := call()
	r.Path = "/?to%6ben=hush&KEY=hush;pass=hush&a&b=2&c=%zz"
	if got, want := line(t, connect.AccessLogs{TextFormat: "%REQ(:PATH)%"}, r), "/?to%6ben=[redacted]&KEY=[redacted];pass=[redacted]&a&b=2&c=%zz"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDefaultFormatHasEveryKeyOnce(t *testing.T) {
	t.Parallel()
	keys := strings.Count(defaultFormat, `": "`)
	var fields map[string]string
	if err := json.Unmarshal([]byte(defaultFormat), &fields); err != nil {
		t.Fatal(err)
	}
	if len(fields) != 29 || keys != 29 {
		t.Errorf("%d keys, %d of them different: want Consul's 24 and 5 of ours", keys, len(fields))
	}
}

func FuzzFormat(f *testing.F) {
	for _, s := range []string{"%REQ(a?b):3% %%", "%START_TIME(%s.%3f)%", "%", "%DYNAMIC_METADATA(outrider:reason)%", "é\n\x00%PROTOCOL%"} {
		f.Add(s, "x\n\"\xff")
	}
	f.Fuzz(func(t *testing.T, format, sent string) {
		r := call()
		r.RequestHeader["A"], r.Path = []string{sent}, sent
		quoted, err := json.Marshal(map[string]any{"a": format, "b": []string{"x" + format}, "%REQ(a)%": "%REQ(a)%"})
		if err != nil {
			return // not UTF-8: JSON cannot hold it
		}
		for _, logs := range []connect.AccessLogs{{JSONFormat: string(quoted)}, {TextFormat: format + "%REQ(a)%%REQ(:PATH):3%"}} {
			logs.Enabled = true
			compiled, _ := Compile(logs, Facts{})
			out := made(compiled, r)
			if n := strings.Count(string(out), "\n"); n != 1 && !strings.Contains(format, "\n") {
				t.Fatalf("%d line ends in %q", n, out)
			}
			if logs.JSONFormat != "" && !json.Valid(out) {
				t.Fatalf("not JSON: %q", out)
			}
		}
	})
}

// BenchmarkTake is what a request waits for, BenchmarkAppend is done afterwards.
func BenchmarkTake(b *testing.B) {
	f, _ := Compile(connect.AccessLogs{Enabled: true}, Facts{})
	r := call()
	var e Entry
	b.ReportAllocs()
	for b.Loop() {
		f.Take(&e, r)
	}
}

func BenchmarkAppend(b *testing.B) {
	f, _ := Compile(connect.AccessLogs{Enabled: true}, Facts{})
	buf := make([]byte, 0, 4096)
	var e Entry
	f.Take(&e, call())
	b.ReportAllocs()
	for b.Loop() {
		buf = e.Append(buf[:0])
	}
}
