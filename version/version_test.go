// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package version

import (
	"encoding/json"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLinkerWinsOverRecordedBuildInformation(t *testing.T) {
	t.Parallel()
	settings := []debug.BuildSetting{
		{Key: "GOOS", Value: "linux"},
		{Key: "GOARCH", Value: "arm64"},
		{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
		{Key: "vcs.modified", Value: "true"},
	}
	tests := map[string]struct {
		version, commit string
		build           debug.BuildInfo
		want            Info
		line            string
	}{
		"numbered by the linker": {
			version: "v1.2.3", commit: "cafe",
			build: debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v9.9.9"}, Settings: settings},
			want:  Info{Version: "1.2.3", Commit: "cafe", Go: "go1.26.8", Platform: "linux/arm64"},
			line:  "outrider 1.2.3 (cafe)",
		},
		"installed from the module proxy": {
			build: debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v0.4.0"}},
			want:  Info{Version: "0.4.0", Go: "go1.26.8", Platform: "unknown/unknown"},
			line:  "outrider 0.4.0",
		},
		"built from a changed checkout": {
			build: debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}, Settings: settings},
			want:  Info{Version: Unknown, Commit: "0123456789ab-dirty", Go: "go1.26.8", Platform: "linux/arm64"},
			line:  "outrider " + Unknown + " (0123456789ab-dirty)",
		},
		"nothing known": {
			want: Info{Version: Unknown, Go: "unknown", Platform: "unknown/unknown"},
			line: "outrider " + Unknown,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := from(tc.version, tc.commit, &tc.build)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("from (-want +got):\n%s", diff)
			}
			if got.String() != tc.line {
				t.Errorf("String() = %q, want %q", got.String(), tc.line)
			}
		})
	}
}

func TestCurrentNamesTheRunningToolchain(t *testing.T) {
	t.Parallel()
	got := Current()
	if got.Go != runtime.Version() && !strings.HasPrefix(runtime.Version(), got.Go) {
		t.Errorf("Go = %q, want %q", got.Go, runtime.Version())
	}
	if want := runtime.GOOS + "/" + runtime.GOARCH; got.Platform != want {
		t.Errorf("Platform = %q, want %q", got.Platform, want)
	}
	if got.String() != String() {
		t.Errorf("String() = %q, Current().String() = %q", String(), got.String())
	}
}

func TestJSONOmitsAnUnknownCommit(t *testing.T) {
	t.Parallel()
	got, err := json.Marshal(Info{Version: "1.0.0", Go: "go1.26.8", Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"version":"1.0.0","go":"go1.26.8","platform":"linux/amd64"}`; string(got) != want {
		t.Errorf("JSON = %s, want %s", got, want)
	}
}
