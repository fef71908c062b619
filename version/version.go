// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package version says which Outrider this is. It must not decide anything:
// no behaviour depends on a version number.
package version

import (
	"runtime/debug"
	"strings"
)

// Set by the linker (-ldflags "-X ..."), never by code. Empty: ask the build
// information that the Go toolchain leaves in the binary.
var (
	version string
	commit  string
)

// Unknown is the version of a binary that nobody numbered: built from a
// checkout without a tag and without the Makefile.
const Unknown = "0.0.0-dev"

// shortCommit is how many digits of a commit people are shown.
const shortCommit = 12

// Info identifies a build. Its fields are never empty but Commit, which is
// empty when the build did not know it.
type Info struct {
	Version  string `json:"version"`          // semantic version without a leading v
	Commit   string `json:"commit,omitempty"` // abbreviated, "-dirty" appended when the tree had changes
	Go       string `json:"go"`               // version of the Go toolchain, as "go1.26.8"
	Platform string `json:"platform"`         // as "linux/amd64"
}

// Current returns the identity of the running binary.
func Current() Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return from(version, commit, build)
}

// String returns the running version in one line, as "outrider 0.1.0 (1a2b3c4d5e6f)".
func String() string { return Current().String() }

// String returns the version and the commit in one line.
func (i Info) String() string {
	if i.Commit == "" {
		return "outrider " + i.Version
	}
	return "outrider " + i.Version + " (" + i.Commit + ")"
}

// from prefers what the linker was told over what the toolchain recorded: a
// release is numbered by whoever makes it.
func from(version, commit string, build *debug.BuildInfo) Info {
	settings := make(map[string]string, len(build.Settings))
	for _, s := range build.Settings {
		settings[s.Key] = s.Value
	}
	info := Info{
		Version:  strings.TrimPrefix(version, "v"),
		Commit:   commit,
		Go:       orUnknown(build.GoVersion),
		Platform: orUnknown(settings["GOOS"]) + "/" + orUnknown(settings["GOARCH"]),
	}
	if info.Version == "" {
		info.Version = moduleVersion(build.Main.Version)
	}
	if info.Commit == "" {
		info.Commit = recordedCommit(settings)
	}
	return info
}

// moduleVersion returns the version that `go install module@version` records;
// "(devel)" is the toolchain's word for none.
func moduleVersion(recorded string) string {
	if recorded == "" || recorded == "(devel)" {
		return Unknown
	}
	return strings.TrimPrefix(recorded, "v")
}

func recordedCommit(settings map[string]string) string {
	revision := settings["vcs.revision"]
	if len(revision) > shortCommit {
		revision = revision[:shortCommit]
	}
	if revision != "" && settings["vcs.modified"] == "true" {
		revision += "-dirty"
	}
	return revision
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
