// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// parseError parses a text that must be refused.
func parseError(t *testing.T, src string) *Error {
	t.Helper()
	_, err := Parse("a.hcl", []byte(src))
	problem, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Parse = %v, want an *Error", err)
	}
	return problem
}

func TestJSONFormHoldsWhatTheTextShows(t *testing.T) {
	problem := parseError(t, "consul {\n  token = \"c0ffee\"\n}\nlog {\n  level = \"wärn\"\n}\n")
	got, err := json.MarshalIndent(problem.JSON(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "report.json"), append(got, '\n'))
	shown := text(t, problem)
	for _, d := range problem.JSON().Diagnostics {
		parts := []string{d.Summary}
		if d.Snippet != nil {
			parts = append(parts, d.Snippet.Code, d.Snippet.Context)
		}
		for _, part := range parts {
			if !strings.Contains(shown, part) {
				t.Errorf("the text lacks %q", part)
			}
		}
	}
}

func TestErrorIsOneLineThatCountsTheOthers(t *testing.T) {
	problem := parseError(t, "consul {\n  token = \"c0ffee\"\n}\nlog {\n  level = \"x\"\n  format = \"y\"\n}\n")
	want := `a.hcl:5: unknown level "x": Write one of trace, debug, info, warn, error. (and 3 more)`
	if got := problem.Error(); got != want {
		t.Errorf("Error() = %q\nwant %q", got, want)
	}
}

func TestColourChangesNothingButColour(t *testing.T) {
	problem := parseError(t, "lgo {}\ntelemetry {}\n")
	var colored bytes.Buffer
	if err := problem.Write(&colored, 80, true); err != nil {
		t.Fatal(err)
	}
	bare := colored.String()
	for _, code := range []string{"\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[2m", "\x1b[0m"} {
		if !strings.Contains(bare, code) {
			t.Errorf("no %q in it", code)
		}
		bare = strings.ReplaceAll(bare, code, "")
	}
	if bare != text(t, problem) {
		t.Errorf("without its colours the text is\n%s", bare)
	}
}

func TestProseKeepsToTheWidth(t *testing.T) {
	problem := parseError(t, "service {\n  name = \"web\"\n  connect {\n    native = true\n  }\n}\n")
	for _, width := range []int{30, 60} {
		var b bytes.Buffer
		if err := problem.Write(&b, width, false); err != nil {
			t.Fatal(err)
		}
		_, prose, _ := strings.Cut(b.String(), "^\n\n")
		for line := range strings.SplitSeq(strings.TrimSpace(prose), "\n") {
			if len(line) > width {
				t.Errorf("width %d: %q", width, line)
			}
		}
	}
	var b bytes.Buffer
	if err := problem.Write(&b, 0, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), problem.JSON().Diagnostics[0].Detail) {
		t.Error("width 0 broke the prose")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWriteReturnsTheErrorOfTheWriter(t *testing.T) {
	if err := parseError(t, "lgo {}\n").Write(brokenWriter{}, 80, false); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write = %v, want %v", err, os.ErrClosed)
	}
}

func TestManyProblemsAreCutAndCounted(t *testing.T) {
	problem := parseError(t, strings.Repeat("nothing {}\n", 1000))
	report := problem.JSON()
	if report.Errors != 1000 || len(report.Diagnostics) != maxProblems+1 {
		t.Errorf("%d errors, %d shown; want 1000 and %d", report.Errors, len(report.Diagnostics), maxProblems+1)
	}
	last := report.Diagnostics[maxProblems]
	if last.Summary != "Too many problems" || !strings.Contains(last.Detail, "901 more") {
		t.Errorf("the last one is %q, %q", last.Summary, last.Detail)
	}
}

func TestLongLinesAreCutWithoutBreakingACharacter(t *testing.T) {
	problem := parseError(t, "log {\n  level = \""+strings.Repeat("ä", 500)+"\" /* "+strings.Repeat("x", 500)+" */\n}\n")
	code := problem.JSON().Diagnostics[0].Snippet.Code
	if len(code) > maxSnippet+len("…") || !strings.HasSuffix(code, "ä…") {
		t.Errorf("snippet is %q", code)
	}
}

// TestSecretsAreNeverShown puts one secret in many ways next to a mistake.
func TestSecretsAreNeverShown(t *testing.T) {
	const secret = "c0ffee-s3cret"
	sources := map[string]string{
		"wrong type":         "consul {\n  token = [\"%s\"]\n}\n",
		"same line":          "vault {\n  auth \"approle\" { secret_id = \"%s\" nonsense }\n}\n",
		"quote not closed":   "consul {\n  token = \"%s\n}\n",
		"no quotes":          "consul {\n  token = %s\n}\n",
		"no quotes, dotted":  "consul {\n  token = hvs.%s\n}\n",
		"no quotes, called":  "consul {\n  token = %s()\n}\n",
		"no quotes, numbers": "consul {\n  token = 12%s\n}\n",
		"no quotes, first":   "consul {\n  token = %s.hvs.a\n}\n",
		"as a variable":      "consul {\n  token = env(\"%s\")\n}\n",
		"second word":        "consul {\n  token = abc %s\n}\n",
		"quoted name":        "consul {\n  \"token\" = \"%s\"\n}\n",
		"no spaces":          "consul={token=\"%s\",x=1}\n",
		"colon":              "consul = { token : [\"%s\"] }\n",
		"heredoc":            "consul {\n  token = <<EOT\n%s\nEOT\n  tokn = 1\n}\n",
		"heredoc open":       "consul {\n  token = <<EOT\n%s\n",
		"list":               "consul {\n  token = [\n    \"%s\", nope,\n  ]\n}\n",
		"template":           "consul {\n  token = \"${nope}%s\"\n}\n",
		"call":               "consul {\n  token = upper(\n    \"%s\")\n}\n",
		"comment":            "consul { # token = \"%s\"\n  tls {} }\n",
		"upper case":         "service {\n  Token = [\"%s\"]\n}\n",
		"header":             "service {\n  check {\n    header { Authorization = [[\"%s\"]] }\n  }\n}\n",
		"header with hyphen": "service {\n  check {\n    header = { \"X-Vault-Token\" = [[\"%s\"]] }\n  }\n}\n",
		"url":                "consul {\n  address = \"https://admin:%s@127.0.0.1:8501\"\n}\n",
		"nested":             "service {\n  meta = { token = { a = \"%s\" } }\n}\n",
		"default of env":     "consul {\n  token = env(\"OUTRIDER_TEST_ABSENT\", [\"%s\"])\n}\n",
		"sidecar":            "service {\n  connect {\n    sidecar_service {\n      token = \"%s\"\n    }\n  }\n}\n",
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			problem := parseError(t, fmt.Sprintf(source, secret))
			report, err := json.Marshal(problem.JSON())
			if err != nil {
				t.Fatal(err)
			}
			for form, shown := range map[string]string{
				"text": text(t, problem), "JSON": string(report), "Error()": problem.Error(),
				"%+v": fmt.Sprintf("%+v", problem), "%#v": fmt.Sprintf("%#v", problem),
			} {
				if strings.Contains(shown, secret) || strings.Contains(shown, "s3cret") {
					t.Errorf("%s shows the secret:\n%s", form, shown)
				}
			}
		})
	}
}

func TestSecretsOfAConfigAreNotPrinted(t *testing.T) {
	const secret = "c0ffee-s3cret"
	cfg, err := Parse("a.hcl", fmt.Appendf(nil, "consul {\n  token = %q\n}\n", secret))
	if err != nil {
		t.Fatal(err)
	}
	if string(cfg.Consul.Token) != secret {
		t.Fatalf("the token was not decoded: %q", string(cfg.Consul.Token))
	}
	encoded, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		fmt.Sprint(cfg), fmt.Sprintf("%+v", *cfg), fmt.Sprintf("%#v", *cfg), fmt.Sprintf("%q", cfg.Consul.Token),
		fmt.Sprintf("%v", []any{cfg.Consul}), cfg.Consul.Token.String(), string(encoded),
	} {
		if strings.Contains(shown, secret) || !strings.Contains(shown, "hidden") {
			t.Errorf("printed as %s", shown)
		}
	}
	if got := fmt.Sprintf("%v|%#v", Secret(""), Secret("")); got != `|""` {
		t.Errorf("an empty secret is printed as %s", got)
	}
}

func TestFileNamesOfSecretsAreShown(t *testing.T) {
	problem := parseError(t, "consul {\n  token_file = [\"/etc/outrider.d/token\"]\n}\n")
	if shown := text(t, problem); !strings.Contains(shown, "/etc/outrider.d/token") {
		t.Errorf("the line is hidden:\n%s", shown)
	}
}

func TestHighlightFollowsTheTextWhenASecretBeforeItIsHidden(t *testing.T) {
	problem := parseError(t, "consul {\n  address = \"https://someone:c0ffee@127.0.0.1:8501\" + 1\n}\n")
	s := problem.JSON().Diagnostics[0].Snippet
	if got := s.Code[s.Start:s.End]; !strings.Contains(s.Code, hidden) || strings.Contains(got, "address") || got == "" {
		t.Errorf("highlighted %q in %q", got, s.Code)
	}
}
