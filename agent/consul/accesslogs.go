// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import "github.com/outrider-mesh/outrider/connect"

// wireAccessLogs are those of proxy-defaults, which Consul merges into the
// registration field by field (Consul, proxy-defaults: access_logs).
type wireAccessLogs struct {
	Enabled             bool
	DisableListenerLogs bool
	Type                string
	Path                string
	JSONFormat          string
	TextFormat          string
}

// convertAccessLogs reads them. A type that is not known means no access log: it
// would be where nobody looks for it.
func convertAccessLogs(w wireAccessLogs, config opaque) connect.AccessLogs {
	a := connect.AccessLogs{
		Enabled: w.Enabled, NoListenerLogs: w.DisableListenerLogs, Type: connect.AccessLogType(w.Type), Path: w.Path,
		JSONFormat: w.JSONFormat, TextFormat: w.TextFormat,
	}
	if !a.Enabled {
		return connect.AccessLogs{}
	}
	switch a.Type {
	case "":
		a.Type = connect.AccessLogStdout
	case connect.AccessLogStdout, connect.AccessLogStderr, connect.AccessLogFile:
	default:
		config.note("access_logs: type %q is not known, and nothing is logged; want stdout, stderr or file", w.Type)
		return connect.AccessLogs{}
	}
	if a.Type != connect.AccessLogFile {
		a.Path = "" // that of a type that another level has replaced
	} else if a.Path == "" {
		config.note("access_logs: type is file without a path, and nothing is logged")
		return connect.AccessLogs{}
	}
	if a.JSONFormat != "" && a.TextFormat != "" {
		config.note("access_logs: there is a json_format and a text_format, and text_format is ignored")
		a.TextFormat = ""
	}
	return a
}
