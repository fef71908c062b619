// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A logLine is one line of an access log in JSON.
type logLine map[string]any

// has reports whether the fields, names and values in turn, are those of the line.
func (l logLine) has(fields ...any) bool {
	for i := 0; i+1 < len(fields); i += 2 {
		name, _ := fields[i].(string)
		got, there := l[name]
		if !there || fmt.Sprint(got) != fmt.Sprint(fields[i+1]) {
			return false
		}
	}
	return true
}

// logLines are those lines of a text that are JSON of an access log.
func logLines(text string) []logLine {
	var out []logLine
	for line := range strings.Lines(text) {
		var l logLine
		if json.Unmarshal([]byte(line), &l) == nil && l["start_time"] != nil {
			out = append(out, l)
		}
	}
	return out
}

// logged waits for a line with the fields.
func logged(t *testing.T, text func() string, fields ...any) logLine {
	t.Helper()
	var found logLine
	until(t, fmt.Sprintf("a line of the access log has %v", fields), func() error {
		for _, l := range logLines(text()) {
			if l.has(fields...) {
				found = l
				return nil
			}
		}
		return fmt.Errorf("lines: %s", text())
	})
	return found
}

// fileText is what a file holds by now.
func fileText(t *testing.T, path string) func() string {
	t.Helper()
	return func() string {
		text, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
}

// accessLogs makes the access_logs of proxy-defaults what JSON says.
func accessLogs(t *testing.T, consul *realserver.Consul, protocol, logs string) {
	t.Helper()
	entry(t, consul, `{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":%q},"AccessLogs":%s}`, protocol, logs)
}

func TestAccessLogIsAsProxyDefaultsSay(t *testing.T) {
	t.Parallel()
	consul := newHTTPMesh(t)
	path := filepath.Join(t.TempDir(), "access.log")
	accessLogs(t, consul, "http", fmt.Sprintf(`{"Enabled":true,"Type":"file","Path":%s}`, quoted(t, path)))
	entry(t, consul, `{"Kind":"service-intentions","Name":"shop","Sources":[{"Name":"web-shop","Permissions":[
		{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	o, c := pair(t, consul, "shop", service{}, service{app: serve(t, app)})
	c.eventually(t, 200, "/orders?token=hush", "Authorization", "Bearer hush", "Cookie", "sid=hush", "User-Agent", `a"b`)
	c.want(t, 403, "/admin?token=hush")

	for _, direction := range []string{"outbound", "inbound"} {
		l := logged(t, fileText(t, path), "direction", direction, "path", "/orders", "response_code", 200)
		if !l.has("method", "GET", "protocol", "HTTP/1.1", "bytes_sent", 5, "response_flags", "-", "reason", nil, "user_agent", `a"b`, "response_code_details", "via_upstream") {
			t.Errorf("%s: %v", direction, l)
		}
		if len(l) != 29 {
			t.Errorf("%s: %d keys, want Consul's 24 and 5: %v", direction, len(l), l)
		}
		denied := logged(t, fileText(t, path), "direction", direction, "path", "/admin")
		if !denied.has("response_code", 403, "reason", "intention_denied") {
			t.Errorf("%s: %v", direction, denied)
		}
	}
	inbound := logged(t, fileText(t, path), "direction", "inbound", "path", "/admin")
	if !inbound.has("service", "shop", "source", "web-shop", "intention", "web-shop → shop", "response_flags", "UAEX") {
		t.Errorf("inbound: %v", inbound)
	}
	if text := fileText(t, path)(); strings.Contains(text, "hush") {
		t.Errorf("a secret is in the access log: %s", text)
	}
	reopened(t, o, c, path)

	const format = `text %REQ(AUTHORIZATION)% %REQ(:PATH)% %RESPONSE_CODE% %DYNAMIC_METADATA(outrider:reason)%`
	accessLogs(t, consul, "http", fmt.Sprintf(`{"Enabled":true,"TextFormat":%s}`, quoted(t, format)))
	until(t, "the format of proxy-defaults is in force", func() error {
		c.want(t, 403, "/admin?token=hush", "Authorization", "Bearer hush")
		if want := "text [redacted] /admin?token=[redacted] 403 intention_denied\n"; !strings.Contains(o.text(), want) {
			return fmt.Errorf("no line %q", want)
		}
		return nil
	})
}

// reopened renames the file as logrotate does.
func reopened(t *testing.T, o *outrider, c *caller, path string) {
	t.Helper()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	c.want(t, 200, "/old")
	if err := o.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "the file is opened again", func() error {
		_, err := os.Stat(path)
		return err
	})
	c.want(t, 200, "/new")
	logged(t, fileText(t, path), "path", "/new", "direction", "inbound")
	logged(t, fileText(t, path+".1"), "path", "/old", "direction", "inbound")
}

func TestAccessLogTellsOfConnections(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t, realserver.HCL(defaultDeny))
	accessLogs(t, consul, "tcp", `{"Enabled":true,"Type":"stderr"}`)
	m := meshWith(t, consul, "")
	until(t, "the call is denied", func() error {
		if pingOnce(m.port) == nil {
			return fmt.Errorf("it went through")
		}
		return nil
	})
	denied := logged(t, m.api.text, "direction", "inbound", "reason", "intention_denied")
	if !denied.has("source", "web", "intention", "default policy", "response_flags", "UAEX", "connection_termination_details", "rbac_access_denied_matched_policy[none]", "method", nil) {
		t.Errorf("denied: %v", denied)
	}
	intend(t, consul, "allow", "web", "api")
	until(t, "the intention is in force", func() error { return pingOnce(m.port) })
	inbound := logged(t, m.api.text, "direction", "inbound", "reason", nil, "source", "web")
	// That of the denied calls carried nothing: to their caller they ended early.
	outbound := logged(t, m.web.text, "direction", "outbound", "reason", nil, "service", "web", "bytes_received", inbound["bytes_received"])
	for name, l := range map[string]logLine{"inbound": inbound, "outbound": outbound} {
		sent, _ := l["bytes_sent"].(float64)
		if !l.has("response_code", 0, "response_flags", "-", "protocol", nil) || sent == 0 {
			t.Errorf("%s: %v", name, l)
		}
	}
}
