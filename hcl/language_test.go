// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// full spells out every default that does not depend on other values.
const full = `
log {
  level  = "info"
  format = "text"
}
consul {
  address = "127.0.0.1:8500"
}
vault {
  address = "https://127.0.0.1:8200"
  auth "token" {
    token_file = "/t"
  }
  pki {
    role  = "web"
    mount = "pki"
    ttl   = "24h"
  }
}
admin {
  address = "unix:///run/outrider/admin.sock"
}
telemetry {
  otlp_endpoint = "https://collector.example.com:4318"
  otlp_protocol = "http/protobuf"
}
drain {
  propagation = "2s"
  timeout     = "30s"
}
service {
  name = "web"
  port = 8080
  weights {
    passing = 1
    warning = 1
  }
  connect {
    sidecar_service {
      weights {
        passing = 1
        warning = 1
      }
      proxy {
        local_service_address = "127.0.0.1"
        expose {
          paths {
            path            = "/metrics"
            local_path_port = 8080
            listener_port   = 21500
            protocol        = "http"
          }
        }
        upstreams {
          destination_name   = "api"
          destination_type   = "service"
          local_bind_port    = 9191
          local_bind_address = "127.0.0.1"
        }
      }
    }
  }
}
`

// defaultLine is a line of full that writes a default.
func defaultLine(d Default) *regexp.Regexp {
	name := d.Path[strings.LastIndex(d.Path, ".")+1:]
	return regexp.MustCompile(`(?m)^ *` + name + ` *= "?` + regexp.QuoteMeta(d.Value) + `"?\n`)
}

func TestDefaultsMeanWhatTheTableSays(t *testing.T) {
	want, err := Parse("full.hcl", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	short := full
	for _, d := range Defaults() {
		if d.Value == "" {
			continue
		}
		line := defaultLine(d)
		if !line.MatchString(full) {
			t.Errorf("%s = %s is not among the defaults that are written out", d.Path, d.Value)
		}
		short = line.ReplaceAllString(short, "")
	}
	if strings.Contains(short, "propagation") || strings.Contains(short, "protocol") {
		t.Fatalf("defaults are still in it:\n%s", short)
	}
	got, err := Parse("short.hcl", []byte(short))
	if err != nil {
		t.Fatalf("without its defaults the configuration is refused: %v\n%s", err, short)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Error{})); diff != "" {
		t.Errorf("a default that is left out means something else (-written +left out):\n%s", diff)
	}
}

func TestDefaultsAreInTheDocumentation(t *testing.T) {
	doc := documentation(t)
	for _, d := range Defaults() {
		value := ""
		if d.Value != "" {
			value = "`" + d.Value + "`"
		}
		row := strings.ReplaceAll(fmt.Sprintf("| `%s` | %s | %s |", d.Path, value, d.Meaning), "|  |", "| |")
		if !strings.Contains(doc, row+"\n") {
			t.Errorf("docs/configuration.md lacks the row\n%s", row)
		}
	}
}

func TestExamplesOfTheDocumentationAreTestedFiles(t *testing.T) {
	doc := documentation(t)
	examples, err := filepath.Glob(filepath.Join("testdata", "good", "doc-*.hcl"))
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range examples {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, example, _ := strings.Cut(string(content), "\n\n") // behind the licence
		block := "```hcl\n" + example + "```\n"
		if !strings.Contains(doc, block) {
			t.Errorf("docs/configuration.md lacks %s", name)
		}
		doc = strings.Replace(doc, block, "", 1)
	}
	if strings.Contains(doc, "```hcl") {
		t.Error("docs/configuration.md has an example that is no file of testdata/good, so nobody tests it")
	}
}

func documentation(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestBothSpellingsOfAServiceMeanTheSame(t *testing.T) {
	pairs := map[string][2]string{
		"one check":    {"check {\n    ttl = \"10s\"\n  }", "checks = [{ ttl = \"10s\" }]"},
		"two checks":   {"check {\n    ttl = \"10s\"\n  }\n  check {\n    ttl = \"20s\"\n  }", "checks = [{ ttl = \"10s\" }, { ttl = \"20s\" }]"},
		"mixed checks": {"check {\n    ttl = \"10s\"\n  }\n  checks {\n    ttl = \"20s\"\n  }", "check = { ttl = \"10s\" }\n  checks = [{ ttl = \"20s\" }]"},
		"meta":         {"meta {\n    a = \"b\"\n  }", "meta = { a = \"b\" }"},
		"numbers":      {"meta {\n    a = 1\n  }", "meta = { a = \"1\" }"},
		"null":         {"", "meta = null\n  tags = null\n  checks = null\n  address = null"},
		"Nomad http":   {"check {\n    type = \"http\"\n    path = \"/h\"\n    interval = \"1s\"\n  }", "check {\n    http = \"http://127.0.0.1:8080/h\"\n    interval = \"1s\"\n  }"},
		"Nomad tcp":    {"check {\n    type = \"tcp\"\n    port = \"81\"\n    interval = \"1s\"\n  }", "check {\n    tcp = \"127.0.0.1:81\"\n    interval = \"1s\"\n  }"},
		"CamelCase":    {"TaggedAddresses = {\n    lan = { address = \"10.0.0.1\", port = 1 }\n  }", "tagged_addresses {\n    lan {\n      address = \"10.0.0.1\"\n      port = 1\n    }\n  }"},
	}
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			var parsed [2]*Config
			for i, part := range pair {
				cfg, err := Parse("a.hcl", fmt.Appendf(nil, "service {\n  name = \"web\"\n  port = 8080\n  %s\n  %s\n}\n", part, sidecarBlock))
				if err != nil {
					t.Fatal(err)
				}
				parsed[i] = cfg
			}
			if diff := cmp.Diff(parsed[0], parsed[1]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOnlyServicesHaveConsulsLooseSpelling(t *testing.T) {
	report := parseError(t, "Log {}\nconsul {\n  TokenFile = \"/t\"\n}\n").JSON()
	var got []string
	for _, d := range report.Diagnostics {
		if d.Severity == "error" {
			got = append(got, d.Summary+". "+d.Detail)
		}
	}
	want := []string{`Unknown name "Log". Did you mean "log"?`, `Unknown name "TokenFile". Did you mean "token_file"?`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSuggestionsAreNearOrAbsent(t *testing.T) {
	known := []string{"address", "token", "token_file", "port"}
	for given, want := range map[string]string{
		"adress": "address", "tokne": "token", "prot": "port", "Port": "port", "tokenfile": "token_file",
		"zebra": "", "x": "", strings.Repeat("a", 1_000_000): "",
	} {
		if got := suggest(given, known); got != want {
			t.Errorf("suggest(%.20q) = %q, want %q", given, got, want)
		}
	}
}

func TestFormatGivesTheCanonicalForm(t *testing.T) {
	got, err := Format([]byte("\n\nlog   {\nlevel=\"info\"\n      format   =    \"json\" # why\n}\n\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "log {\n  level  = \"info\"\n  format = \"json\" # why\n}\n"
	if diff := cmp.Diff(want, strings.TrimLeft(string(got), "\n")); diff != "" {
		t.Error(diff)
	}
	if got, err := Format(nil); err != nil || len(got) != 0 {
		t.Errorf("Format of nothing = %q, %v", got, err)
	}
	if _, err := Format([]byte("log {")); err == nil {
		t.Error("Format took a torn text")
	}
}

func TestExamplesOfTheDocumentationAreInCanonicalForm(t *testing.T) {
	examples, err := filepath.Glob(filepath.Join("testdata", "good", "doc-*.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range examples {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := Format(content)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(name, formatted, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(string(content), string(formatted)); diff != "" {
			t.Errorf("%s (-as it is +canonical):\n%s", name, diff)
		}
	}
}
