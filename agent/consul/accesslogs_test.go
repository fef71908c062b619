// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestAccessLogsOfARegistration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		logs connect.AccessLogs
		note string
	}{
		`{}`: {},
		`{"Enabled":false,"Type":"file","Path":"/x"}`: {},
		`{"Enabled":true}`:                            {logs: connect.AccessLogs{Enabled: true, Type: "stdout"}},
		`{"Enabled":true,"DisableListenerLogs":true,"Type":"file","Path":"/x/y","TextFormat":"%PROTOCOL%\n"}`: {
			logs: connect.AccessLogs{Enabled: true, NoListenerLogs: true, Type: "file", Path: "/x/y", TextFormat: "%PROTOCOL%\n"},
		},
		`{"Enabled":true,"Type":"stderr","Path":"/x/y","JSONFormat":"{}"}`: {logs: connect.AccessLogs{Enabled: true, Type: "stderr", JSONFormat: "{}"}},
		`{"Enabled":true,"Type":"syslog"}`:                                 {note: `type "syslog" is not known`},
		`{"Enabled":true,"Type":"file"}`:                                   {note: "without a path"},
		`{"Enabled":true,"JSONFormat":"{}","TextFormat":"x"}`:              {logs: connect.AccessLogs{Enabled: true, Type: "stdout", JSONFormat: "{}"}, note: "text_format is ignored"},
	} {
		var w wireService
		body := `{"Kind":"connect-proxy","ID":"api-proxy","Port":21000,"Proxy":{"DestinationServiceName":"api","LocalServicePort":1,"AccessLogs":` + in + `}}`
		if err := json.Unmarshal([]byte(body), &w); err != nil {
			t.Fatal(err)
		}
		r, err := convertRegistration(w, "dc1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.logs, r.Service.AccessLogs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
		if notes := strings.Join(r.Warnings, "\n"); !strings.Contains(notes, want.note) || (want.note == "") != (notes == "") {
			t.Errorf("%s: warnings %q", in, notes)
		}
	}
}
