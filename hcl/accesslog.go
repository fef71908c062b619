// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"encoding/json"
	"path/filepath"
)

// AccessLogs say whether there is a line for each request and connection, in
// which form, and where it goes (Consul, proxy-defaults: access_logs).
type AccessLogs struct {
	Enabled             bool
	DisableListenerLogs bool
	Type                string // "", stdout, stderr, file; "" means stdout
	Path                string // absolute; with type file
	JSONFormat          string // one of the two at most
	TextFormat          string
}

// An AccessLog is the access log of sidecars for which Consul asks none.
type AccessLog struct {
	AccessLogs

	// Directories are those, besides the ones for logs, below which Consul may
	// name files.
	Directories []string
}

func (d *decoder) accessLog(o *object, a *AccessLog) {
	s := d.scope(o)
	d.accessLogs(s, &a.AccessLogs)
	s.list("directories", &a.Directories)
	s.end()
}

// accessLogs decodes what a scope says of them, but does not end it.
func (d *decoder) accessLogs(s *scope, a *AccessLogs) {
	s.boolean("enabled", &a.Enabled)
	s.boolean("disable_listener_logs", &a.DisableListenerLogs)
	s.str("type", &a.Type)
	s.str("path", &a.Path)
	s.str("json_format", &a.JSONFormat)
	s.str("text_format", &a.TextFormat)
}

// proxyAccessLogs decodes the access_logs block of a proxy; nil when it is
// absent.
func (d *decoder) proxyAccessLogs(outer *scope) *AccessLogs {
	o, given := outer.block("access_logs")
	if !given {
		return nil
	}
	a := &AccessLogs{}
	s := d.scope(o)
	d.accessLogs(s, a)
	s.end()
	return a
}

func (v *validator) accessLog(a AccessLog) {
	v.accessLogs("access_log", a.AccessLogs)
	for _, dir := range a.Directories {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
			v.err("access_log.directories", "Not a directory for logs", `Write absolute paths below the root: directories = ["/srv/logs"].`)
			return
		}
	}
}

func (v *validator) accessLogs(path string, a AccessLogs) {
	v.oneOf(path+".type", a.Type, "", "stdout", "stderr", "file")
	switch {
	case a.Type == "file" && a.Path == "" && !v.broken(path+".path"):
		v.err(path+".type", "Access log without a path", `Write where the file is: path = "/var/log/outrider/access.log".`)
	case a.Type != "file" && a.Path != "" && !v.broken(path+".type"):
		v.err(path+".path", "Path of an access log that is no file", `Write type = "file", or remove the line.`)
	case a.Path != "" && !filepath.IsAbs(a.Path):
		v.err(path+".path", "Relative path", `Write an absolute one: path = "/var/log/outrider/access.log".`)
	}
	if a.JSONFormat != "" && a.TextFormat != "" {
		v.err(path+".text_format", `Both "json_format" and "text_format"`, "A line has one format. Keep one of the two.")
	}
	var object map[string]any
	if a.JSONFormat != "" && json.Unmarshal([]byte(a.JSONFormat), &object) != nil {
		v.err(path+".json_format", "Not a JSON object", `Write an object in which strings hold commands: json_format = "{\"path\": \"%REQ(:PATH)%\"}".`)
	}
}
