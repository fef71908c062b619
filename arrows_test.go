// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package main_test keeps the house in order: which package may import which,
// and the habits that every file follows. It must not test what Outrider does.
package main_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// A rule says what one package may import. Packages of ours are written
// relative to the module; libraries as the import path of the package, which
// includes what lies below it. The standard library is free to all.
type rule struct {
	ours []string
	libs []string
	// Tests of the package may import these as well, and everything in
	// testLibs and testOurs.
	inTests []string
}

const (
	hclog   = "github.com/hashicorp/go-hclog"
	xsync   = "golang.org/x/sync"
	xrate   = "golang.org/x/time/rate"
	systemd = "github.com/coreos/go-systemd/v22"

	http2Lib = "golang.org/x/net/http2"

	grpcLib      = "google.golang.org/grpc"
	websocketLib = "github.com/coder/websocket"

	consulAPI = "github.com/hashicorp/consul/api"
	nomadAPI  = "github.com/hashicorp/nomad/api"
	unixLib   = "golang.org/x/sys/unix"
	vaultAPI  = "github.com/hashicorp/vault/api"
	hclLib    = "github.com/hashicorp/hcl/v2"
	ctyLib    = "github.com/zclconf/go-cty"

	sockaddrLib = "github.com/hashicorp/go-sockaddr"

	otelLib = "go.opentelemetry.io"

	jose = "github.com/go-jose/go-jose/v4"

	prometheusLib   = "github.com/prometheus/client_golang/prometheus"
	metricModelLib  = "github.com/prometheus/client_model/go"
	metricTextLib   = "github.com/prometheus/common/expfmt"
	chromedpLib     = "github.com/chromedp/chromedp"
	chromeDriverLib = "github.com/chromedp/cdproto"
)

// arrows is the architecture. Three sentences explain it: the data plane never
// imports the control plane; sources never import each other nor the
// assembler; each foreign API has one door. ARCHITECTURE.md shows it to
// people. A package that is not here does not exist.
func arrows() map[string]rule {
	return map[string]rule{
		".": {ours: []string{"command"}},
		"command": {
			ours:    []string{"agent", "agent/consul", "agent/crash", "agent/doctor", "agent/handover", "agent/ledger", "agent/outline", "agent/recorder", "agent/rehearse", "agent/tap", "connect", "connect/explain", "hcl", "internal/dev", "jobs", "version"},
			libs:    []string{hclog},
			inTests: []string{"connect/flow", "connect/proxy"},
		},
		"internal/dev": {
			ours: []string{"agent", "connect", "hcl", "internal/miniconsul"},
			libs: []string{hclog, xsync},
		},

		"connect":         {},
		"connect/access":  {ours: []string{"connect", "connect/flow", "connect/request"}},
		"connect/jwt":     {ours: []string{"connect"}, libs: []string{jose}},
		"connect/policy":  {ours: []string{"connect", "connect/jwt", "connect/request"}, inTests: []string{jose}},
		"connect/request": {ours: []string{"connect"}},
		"connect/route":   {ours: []string{"connect", "connect/request"}},
		"connect/balance": {ours: []string{"connect"}},
		"connect/mtls":    {ours: []string{"connect"}},
		"connect/explain": {ours: []string{"connect"}},
		"connect/relay":   {},
		"connect/retry":   {},
		"connect/limit":   {},
		"connect/measure": {ours: []string{"connect", "connect/flow"}, libs: []string{prometheusLib, metricModelLib}, inTests: []string{metricTextLib}},
		"connect/wire":    {libs: []string{hclog, http2Lib}},
		"connect/flow":    {ours: []string{"connect"}},
		"connect/proxy": {
			ours: []string{
				"connect", "connect/access", "connect/explain", "connect/flow", "connect/measure", "connect/policy", "connect/request", "connect/route", "connect/balance", "connect/mtls",
				"connect/relay", "connect/retry", "connect/limit", "connect/wire",
			},
			libs:    []string{hclog, xrate, unixLib},
			inTests: []string{"agent/accesslog", http2Lib}, // what telling costs is measured with whom it is told
		},

		"agent": {
			ours: []string{
				"hcl", "connect", "connect/access", "connect/explain", "connect/flow", "connect/measure", "connect/proxy",
				"agent/accesslog", "agent/bounded", "agent/ledger", "agent/page", "agent/recorder", "agent/tap", "agent/telemetry", "agent/trace",
				"agent/watch", "agent/assemble", "agent/consul", "agent/jwks", "agent/limits", "agent/metadata", "agent/vault", "agent/nomad", "agent/handover",
			},
			libs: []string{hclog, xsync, systemd},
		},
		"agent/accesslog": {ours: []string{"connect", "connect/access", "connect/flow"}, libs: []string{hclog, unixLib}},
		"agent/bounded":   {},
		"agent/handover":  {},
		"agent/ledger":    {ours: []string{"connect", "connect/flow"}, libs: []string{hclog}},
		"agent/rehearse":  {ours: []string{"agent/ledger", "connect", "connect/policy", "connect/request"}, inTests: []string{"agent/consul", "hcl"}},
		"agent/crash":     {libs: []string{hclog}},
		"agent/outline":   {ours: []string{"connect", "connect/flow"}},
		"agent/recorder":  {ours: []string{"agent/outline", "connect", "connect/flow"}},
		"agent/page":      {libs: []string{metricModelLib}, inTests: []string{"connect/flow", "connect/measure"}},
		"agent/tap":       {ours: []string{"agent/outline", "connect", "connect/access", "connect/flow"}, libs: []string{hclog, xrate}},
		"agent/doctor": {
			ours:    []string{"agent", "agent/consul", "agent/limits", "agent/nomad", "agent/vault", "connect", "hcl", "jobs"},
			inTests: []string{"connect/proxy"},
		},
		"agent/telemetry": {
			ours: []string{"agent/bounded", "connect", "connect/measure"}, libs: []string{hclog, prometheusLib, metricModelLib, metricTextLib},
			inTests: []string{"connect/flow"},
		},
		"agent/watch":    {ours: []string{"connect"}, libs: []string{hclog}},
		"agent/assemble": {ours: []string{"connect"}, libs: []string{hclog}},
		"agent/consul":   {ours: []string{"connect", "agent/watch"}, libs: []string{hclog, xsync, consulAPI}},
		"agent/jwks":     {ours: []string{"connect", "agent/watch"}, libs: []string{hclog}},
		"agent/limits":   {},
		"agent/metadata": {},
		"agent/trace":    {ours: []string{"connect", "connect/flow"}, libs: []string{hclog, otelLib, "google.golang.org/protobuf", "golang.org/x/net/http/httpguts"}, inTests: []string{grpcLib}},
		"agent/vault":    {ours: []string{"connect", "agent/watch"}, libs: []string{hclog, vaultAPI}},
		"agent/nomad":    {libs: []string{hclog, unixLib}},

		// What packages hold follows from the table of commands.
		"dist":          {inTests: []string{"command", "hcl"}},
		"dist/generate": {ours: []string{"command"}},
		"dist/metrics":  {ours: []string{"agent/telemetry", "connect/measure"}},

		"hcl":     {libs: []string{hclLib, ctyLib, sockaddrLib}},
		"jobs":    {ours: []string{"hcl"}, libs: []string{nomadAPI}},
		"version": {},

		"internal/meshca":     {ours: []string{"connect"}},
		"internal/miniconsul": {ours: []string{"connect", "internal/meshca"}, libs: []string{hclog}, inTests: []string{consulAPI}},
		"internal/fakevault":  {ours: []string{"connect", "internal/meshca"}},
		"internal/realserver": {},
		"internal/harness":    {},

		"integration": {
			inTests: []string{"connect", "hcl", "agent", "agent/consul", "agent/vault", hclog, consulAPI, vaultAPI, jose, grpcLib, websocketLib, http2Lib, unixLib, otelLib, "google.golang.org/protobuf/proto"},
		},
		"integration/nomad":  {inTests: []string{"agent", nomadAPI, consulAPI, unixLib}},
		"integration/limits": {inTests: []string{"agent"}},
		"integration/packer": {inTests: []string{hclLib}},
		"integration/page": {
			inTests: []string{
				"agent", "agent/ledger", "agent/page", "agent/recorder", "connect/explain", "connect/flow", "connect/measure", "connect/proxy", "hcl",
				chromedpLib, chromeDriverLib,
			},
		},
		"integration/vm":    {},
		"integration/bench": {inTests: []string{grpcLib, http2Lib}},
	}
}

// testLibs and testOurs are open to the tests of every package. Logs go to the
// test, and doubles stand in for servers; nothing else is common to tests.
func testLibs() []string {
	return []string{
		"github.com/google/go-cmp/cmp",
		"github.com/rogpeppe/go-internal/testscript",
		"github.com/rogpeppe/go-internal/txtar",
		"go.uber.org/goleak",
		hclog,
	}
}

func testOurs() []string {
	return []string{"connect", "internal/meshca", "internal/miniconsul", "internal/fakevault", "internal/harness", "internal/realserver"}
}

// checkArrows returns one sentence for each import that the rules do not name,
// each package without a rule and each rule without a package.
func checkArrows(t tree, rules map[string]rule) []string {
	var found []string
	for _, f := range t.files {
		r, known := rules[f.dir]
		if !known {
			found = append(found, fmt.Sprintf("%s: package %s is not in the table of arrows_test.go: add it there with what it may import", f.path, f.dir))
			continue
		}
		for _, path := range f.imports() {
			if !allowed(f, r, path) {
				found = append(found, forbidden(f, r, path))
			}
		}
	}
	for dir := range rules {
		if len(t.in(dir)) == 0 {
			found = append(found, fmt.Sprintf("arrows_test.go: package %s has a rule but no files: remove the rule", dir))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// allowed reports whether f may import path.
func allowed(f file, r rule, path string) bool {
	if own, ok := strings.CutPrefix(path, module+"/"); ok {
		may := r.ours
		if f.test {
			// An external test imports the package it tests.
			may = slices.Concat(may, r.inTests, testOurs(), []string{f.dir})
		}
		return slices.Contains(may, own)
	}
	if isStd(path) {
		return true
	}
	may := r.libs
	if f.test {
		may = slices.Concat(may, r.inTests, testLibs())
	}
	return slices.ContainsFunc(may, func(lib string) bool {
		return path == lib || strings.HasPrefix(path, lib+"/")
	})
}

// isStd reports whether path names a package of the standard library: only
// those have no dot in their first element. cgo's "C" is not one of them: the
// binary is static.
func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && path != "C"
}

func forbidden(f file, r rule, path string) string {
	short := strings.TrimPrefix(path, module+"/")
	may := strings.Join(slices.Concat(r.ours, r.libs), ", ")
	if may == "" {
		may = "nothing but the standard library"
	}
	return fmt.Sprintf("%s: the arrow %s -> %s is not in the table of arrows_test.go: %s may import %s", f.path, f.dir, short, f.dir, may)
}

func TestImportsFollowTheArrows(t *testing.T) {
	t.Parallel()
	report(t, checkArrows(read(t, os.DirFS(".")), arrows()))
}

func TestNoArrowLeadsInACircle(t *testing.T) {
	t.Parallel()
	rules := arrows()
	for from := range rules {
		if path := circle(rules, from, nil); path != nil {
			t.Errorf("%s", strings.Join(path, " -> "))
		}
	}
}

// circle returns a path from the last element of path over dir back to an
// element of path; nil when there is none.
func circle(rules map[string]rule, dir string, path []string) []string {
	if slices.Contains(path, dir) {
		return append(path, dir)
	}
	for _, next := range rules[dir].ours {
		if found := circle(rules, next, append(slices.Clone(path), dir)); found != nil {
			return found
		}
	}
	return nil
}

func TestDataPlaneNeverReachesTheControlPlane(t *testing.T) {
	t.Parallel()
	for dir, r := range arrows() {
		if dir != "connect" && !strings.HasPrefix(dir, "connect/") {
			continue
		}
		for _, to := range r.ours {
			if to != "connect" && !strings.HasPrefix(to, "connect/") {
				t.Errorf("%s may import %s", dir, to)
			}
		}
	}
}

func TestEachForeignAPIHasOneDoor(t *testing.T) {
	t.Parallel()
	doors := map[string]string{consulAPI: "agent/consul", vaultAPI: "agent/vault", hclLib: "hcl", ctyLib: "hcl", systemd: "agent", otelLib: "agent/trace"}
	for dir, r := range arrows() {
		for _, lib := range r.libs {
			if door, ok := doors[lib]; ok && door != dir {
				t.Errorf("%s may import %s, whose door is %s", dir, lib, door)
			}
		}
	}
}

func TestForbiddenArrowsAreNamed(t *testing.T) {
	t.Parallel()
	rules := map[string]rule{
		"connect":       {},
		"connect/proxy": {ours: []string{"connect"}, libs: []string{hclog}},
		"agent/consul":  {ours: []string{"connect"}, libs: []string{consulAPI}, inTests: []string{xsync}},
	}
	tests := map[string]struct {
		path, src string
		want      []string
	}{
		"what the table names": {
			path: "connect/proxy/a.go",
			src:  "package proxy\nimport (\n\"net/http\"\n\"" + hclog + "\"\n\"" + module + "/connect\"\n)",
		},
		"a package below a library that the table names": {
			path: "agent/consul/a.go",
			src:  "package consul\nimport _ \"" + consulAPI + "/watch\"",
		},
		"data plane to control plane": {
			path: "connect/proxy/a.go",
			src:  "package proxy\nimport _ \"" + module + "/agent/consul\"",
			want: []string{"connect/proxy/a.go: the arrow connect/proxy -> agent/consul is not in the table of arrows_test.go: connect/proxy may import connect, " + hclog},
		},
		"a library that starts with the name of an allowed one": {
			path: "agent/consul/a.go",
			src:  "package consul\nimport _ \"" + consulAPI + "x\"",
			want: []string{"agent/consul/a.go: the arrow agent/consul -> " + consulAPI + "x is not in the table of arrows_test.go: agent/consul may import connect, " + consulAPI},
		},
		"the vocabulary to anything": {
			path: "connect/a.go",
			src:  "package connect\nimport _ \"" + hclog + "\"",
			want: []string{"connect/a.go: the arrow connect -> " + hclog + " is not in the table of arrows_test.go: connect may import nothing but the standard library"},
		},
		"cgo": {
			path: "connect/a.go",
			src:  "package connect\nimport \"C\"",
			want: []string{"connect/a.go: the arrow connect -> C is not in the table of arrows_test.go: connect may import nothing but the standard library"},
		},
		"a package without a rule": {
			path: "connect/extra/a.go",
			src:  "package extra",
			want: []string{"connect/extra/a.go: package connect/extra is not in the table of arrows_test.go: add it there with what it may import"},
		},
		"a test may use what tests share and what its package adds": {
			path: "agent/consul/a_test.go",
			src:  "package consul_test\nimport (\n_ \"" + module + "/internal/meshca\"\n_ \"" + module + "/agent/consul\"\n_ \"" + xsync + "/errgroup\"\n_ \"go.uber.org/goleak\"\n)",
		},
		"a test may not reach further": {
			path: "connect/proxy/a_test.go",
			src:  "package proxy\nimport _ \"" + consulAPI + "\"",
			want: []string{"connect/proxy/a_test.go: the arrow connect/proxy -> " + consulAPI + " is not in the table of arrows_test.go: connect/proxy may import connect, " + hclog},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			small := fstest.MapFS{tc.path: {Data: []byte(tc.src)}}
			for dir := range rules {
				small[dir+"/present.go"] = &fstest.MapFile{Data: []byte("package present")}
			}
			if diff := cmp.Diff(tc.want, checkArrows(read(t, small), rules)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRuleWithoutAPackageIsReported(t *testing.T) {
	t.Parallel()
	small := fstest.MapFS{"connect/a.go": {Data: []byte("package connect")}}
	got := checkArrows(read(t, small), map[string]rule{"connect": {}, "gone": {}})
	want := []string{"arrows_test.go: package gone has a rule but no files: remove the rule"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}
