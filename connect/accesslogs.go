// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

// AccessLogs say whether there is a line for each request and connection, in
// which form, and where it goes (Consul, proxy-defaults: access_logs). The zero
// value asks for none.
type AccessLogs struct {
	Enabled bool
	// NoListenerLogs leaves out connections that came to no request and no
	// upstream (disable_listener_logs).
	NoListenerLogs bool
	Type           AccessLogType
	Path           string // of the file; only for AccessLogFile

	// JSONFormat is a JSON object, TextFormat a line, both with Envoy's format
	// commands; with both empty the line is Consul's default JSON. Consul takes one
	// of them at most; JSONFormat wins.
	JSONFormat string
	TextFormat string
}

// An AccessLogType is where access logs go.
type AccessLogType string

// Every AccessLogType, in Consul's words. The zero value counts as stdout.
const (
	AccessLogStdout AccessLogType = "stdout"
	AccessLogStderr AccessLogType = "stderr"
	AccessLogFile   AccessLogType = "file"
)
