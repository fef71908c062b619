// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
)

// envoyFlags are those of Envoy's command line (Envoy documentation, command
// line options) that say something to a sidecar.
type envoyFlags struct {
	bootstrap   string
	logLevel    string
	concurrency int
	drainTime   int
}

// withoutEffect are flags that people pass to Envoy and that mean nothing here:
// those with a value and those without.
func withoutEffect() (values, switches []string) {
	return []string{
			"base-id", "base-id-path", "restart-epoch", "parent-shutdown-time-s", "drain-strategy",
			"log-path", "log-format", "component-log-level", "file-flush-interval-msec", "file-flush-min-size-kb",
			"service-cluster", "service-node", "service-zone", "admin-address-path", "local-address-ip-version",
			"config-yaml", "stats-tag", "socket-path", "socket-mode",
		}, []string{
			"use-dynamic-base-id", "skip-hot-restart-on-no-parent", "skip-hot-restart-parent-stats",
			"enable-fine-grain-logging", "log-format-escaped", "cpuset-threads", "enable-core-dump", "enable-mutex-tracing",
			"allow-unknown-fields", "allow-unknown-static-fields", "reject-unknown-dynamic-fields", "ignore-unknown-dynamic-fields",
			"skip-deprecated-logs",
		}
}

func (f *envoyFlags) register(fs *flag.FlagSet) {
	for _, name := range []string{"c", "config-path"} {
		fs.StringVar(&f.bootstrap, name, "", "`FILE` that \"consul connect envoy -bootstrap\" wrote")
	}
	for _, name := range []string{"l", "log-level"} {
		fs.StringVar(&f.logLevel, name, "info", "trace, debug, info, warning, error, critical or off")
	}
	fs.IntVar(&f.concurrency, "concurrency", 0, "`NUMBER` of processors to work on at once, one more for upkeep; 0 for all")
	fs.IntVar(&f.drainTime, "drain-time-s", 0, "`SECONDS` that connections have to end by themselves")
	// There is no hot restart: nothing to warn of.
	fs.Bool("disable-hot-restart", false, "what Outrider does anyway")
	values, switches := withoutEffect()
	for _, name := range values {
		fs.String(name, "", "no effect")
	}
	for _, name := range switches {
		fs.Bool(name, false, "no effect")
	}
}

// runEnvoy is "outrider -c FILE …", as Nomad's own sidecar task and others start
// Envoy.
func runEnvoy(i invocation) int {
	var f envoyFlags
	fs := flag.NewFlagSet("outrider", flag.ContinueOnError)
	fs.SetOutput(i.stderr)
	fs.Usage = func() {
		_, _ = fmt.Fprint(i.stderr, "Usage: outrider -c FILE [-l LEVEL] [--concurrency N], as Envoy; see \"outrider help\" for Outrider's own commands\n")
	}
	f.register(fs)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	level, known := logLevel(f.logLevel)
	switch {
	case fs.NArg() > 0:
		return i.misuse("unexpected argument %q", fs.Arg(0))
	case f.bootstrap == "":
		return i.misuse("as Envoy: no bootstrap; give -c FILE, or run \"outrider help\" for Outrider's own commands")
	case !known:
		return i.misuse("as Envoy: there is no log level %q; give trace, debug, info, warning, error, critical or off", f.logLevel)
	case f.concurrency < 0 || f.drainTime < 0:
		return i.misuse("as Envoy: --concurrency and --drain-time-s are not negative")
	}
	if names := i.ignored(fs); len(names) > 0 {
		_, _ = fmt.Fprintf(i.stderr, "outrider: no effect here: %s\n", strings.Join(names, ", "))
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(f.concurrency, runtime.GOMAXPROCS(0)))
	}
	l := agent.Launch{
		ServiceID: os.Getenv("CONNECT_SIDECAR_FOR"), ProxyID: os.Getenv("CONNECT_PROXY_ID"),
		Bootstrap: f.bootstrap, Admin: os.Getenv("OUTRIDER_ADMIN"),
		DrainTimeout: time.Duration(min(f.drainTime, math.MaxInt32)) * time.Second,
	}
	l.Log.Level = level
	if err := setKillTimeout(&l); err != nil {
		return i.misuse("as Envoy: %v", err)
	}
	return i.launch("as Envoy", l)
}

// ignored lists the flags that were given and mean nothing.
func (i invocation) ignored(fs *flag.FlagSet) []string {
	values, switches := withoutEffect()
	var names []string
	fs.Visit(func(f *flag.Flag) {
		if slices.Contains(values, f.Name) || slices.Contains(switches, f.Name) {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// logLevel translates a level of Envoy's.
func logLevel(envoy string) (level string, known bool) {
	switch envoy {
	case "trace", "debug", "info", "warn", "error", "off":
		return envoy, true
	case "warning":
		return "warn", true
	case "critical":
		return "error", true
	}
	return "", false
}

// processors is how many threads run Go at once. Envoy has a main thread beside
// its workers; so much is left here for what is not traffic, such as collecting
// garbage, which would stop a single one. There are never more than available.
func processors(concurrency, available int) int {
	if concurrency == 0 || concurrency >= available {
		return available
	}
	return concurrency + 1
}
