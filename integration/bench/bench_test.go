// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/harness"
)

// How to measure.
var (
	span    = flag.Duration("span", 3*time.Second, "how long each round loads each system")
	warm    = flag.Duration("warm", 200*time.Millisecond, "load before each round that is not counted")
	rounds  = flag.Int("rounds", 3, "how many times each system has its turn with each load")
	systems = flag.String("systems", "", "measure only the systems whose names match `REGEXP`")
	atATime = flag.Int("at-a-time", 0, "load with so many requests at a time only; 0 means all loads")
	also    = flag.String("also", "", "one more Outrider to compare with, as `NAME=PROGRAM`")
	program = flag.String("outrider", "", "the Outrider to measure; built as a release when empty")
	output  = flag.String("output", "", "`FILE` for the tables, beside standard output")
	profile = flag.String("profile", "", "`FOLDER` for CPU and allocation profiles of Outrider, taken in rounds of their own")
)

// roleEnv makes this program the application that is called.
const roleEnv = "OUTRIDER_BENCH_APPLICATION"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		if err := serveApplication(os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	m.Run() // its result becomes the exit code of the test program
}

// BenchmarkMesh writes two tables: speed and memory, and what access logs cost.
func BenchmarkMesh(b *testing.B) {
	b.StopTimer()
	outriders := []build{{"Outrider", *program}}
	if *program == "" {
		outriders[0].path = release(b)
	}
	if *also != "" {
		name, path, ok := strings.Cut(*also, "=")
		if !ok {
			b.Fatalf("-also %q is not NAME=PROGRAM", *also)
		}
		outriders = append(outriders, build{name, path})
	}
	var all report
	for _, p := range protocols() {
		b.Run(p.name, func(b *testing.B) {
			m := newMesh(b, p, outriders)
			all.add(m.measure(b))
			m.takeProfiles(b)
		})
	}
	if len(all.rows) == 0 {
		return // nothing that -bench selects, or the reason has been given
	}
	text := all.markdown()
	_, _ = fmt.Fprintln(os.Stdout, "\n"+text)
	if *output != "" {
		if err := os.MkdirAll(filepath.Dir(*output), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(*output, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// A build is one Outrider to measure.
type build struct{ name, path string }

// release builds Outrider as it is shipped.
func release(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "outrider")
	if err := harness.Release(path, "../..", ""); err != nil {
		b.Fatal(err)
	}
	return path
}

// addresses are where the application listens.
type addresses struct{ HTTP, GRPC string }

// startApplication runs the application as a process of its own, which ends
// with the benchmark.
func startApplication(b *testing.B) (addresses, int) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close() // that ends it
		_ = cmd.Wait()
	})
	var at addresses
	if err := json.NewDecoder(out).Decode(&at); err != nil {
		b.Fatalf("start the application: %v", err)
	}
	return at, cmd.Process.Pid
}
