// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func get(t *testing.T, h http.Handler, method, target string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newPage(t *testing.T) *Page {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// parts are the assets by name.
func parts(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	entries, err := fs.ReadDir(assets, "assets")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(text)
	}
	return out
}

func TestEveryAnswerForbidsWhatThePageDoesNotNeed(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
			"frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
		"Referrer-Policy":              "no-referrer",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cross-Origin-Opener-Policy":   "same-origin",
	}
	for _, target := range []string{"/", "/page/main.js", "/page/page.css", "/nothing"} {
		res := get(t, newPage(t), http.MethodGet, target)
		for name, value := range want {
			if diff := cmp.Diff([]string{value}, res.Header.Values(name)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", target, name, diff)
			}
		}
		if got := res.Header.Values("Access-Control-Allow-Origin"); got != nil {
			t.Errorf("%s may be read by other origins: %q", target, got)
		}
	}
}

func TestOnlyReadingIsAnswered(t *testing.T) {
	t.Parallel()
	for _, h := range map[string]http.Handler{"page": newPage(t), "counts": Counts(func() []Gatherer { return nil })} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodTrace, "BREW"} {
			res := get(t, h, method, "/")
			if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s: %s, Allow %q", method, res.Status, res.Header.Get("Allow"))
			}
		}
	}
}

func TestHeadSaysWhatGetWouldWithoutABody(t *testing.T) {
	t.Parallel()
	p := newPage(t)
	read, head := get(t, p, http.MethodGet, "/"), get(t, p, http.MethodHead, "/")
	if diff := cmp.Diff(read.Header, head.Header); diff != "" {
		t.Errorf("headers (-GET +HEAD):\n%s", diff)
	}
	if text := body(t, head); text != "" {
		t.Errorf("HEAD has a body: %.100q", text)
	}
	if text := body(t, read); !strings.HasPrefix(text, "<!doctype html>") {
		t.Errorf("GET: %.100q", text)
	}
}

func TestOnlyPartsOfThePageAreServed(t *testing.T) {
	t.Parallel()
	p := newPage(t)
	for _, target := range []string{"/page/", "/page", "/index.html", "/page/index.html", "/page/../page.go", "/page/%2e%2e/page.go", "/assets/main.js", "//page/main.js"} {
		if res := get(t, p, http.MethodGet, target); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", target, res.Status)
		}
	}
	for name := range parts(t) {
		if name == "index.html" {
			continue
		}
		res := get(t, p, http.MethodGet, "/page/"+name)
		kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
		want := map[string]string{".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[path.Ext(name)]
		if res.StatusCode != http.StatusOK || kind != want {
			t.Errorf("%s: %s, %q", name, res.Status, kind)
		}
	}
}

func TestWhatTheBrowserHasIsNotSentAgain(t *testing.T) {
	t.Parallel()
	p := newPage(t)
	tag := get(t, p, http.MethodGet, "/page/main.js").Header.Get("ETag")
	if res := get(t, p, http.MethodGet, "/page/main.js", "If-None-Match", tag); res.StatusCode != http.StatusNotModified {
		t.Errorf("the same: %s", res.Status)
	}
	if res := get(t, p, http.MethodGet, "/page/main.js", "If-None-Match", `"other"`); res.StatusCode != http.StatusOK {
		t.Errorf("another: %s", res.Status)
	}
}

// What an asset may not have, each with an example that proves the pattern.
var forbidden = map[string]struct {
	pattern *regexp.Regexp
	example string
}{
	"an address of another host":     {regexp.MustCompile(`(?i)(https?:)?//[a-z0-9]`), `fetch("https://example.org")`},
	"markup made of data":            {regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|srcdoc`), `p.innerHTML = name`},
	"code made of data":              {regexp.MustCompile(`\beval\(|new Function|setTimeout\("|import\(`), `eval(text)`},
	"a handler inside of markup":     {regexp.MustCompile(`(?i)<[^>]+\son[a-z]+\s*=`), `<b onclick="go()">`},
	"a style inside of markup":       {regexp.MustCompile(`(?i)<style|<[^>]+\sstyle\s*=|\.style\.|cssText`), `<b style="x">`},
	"a script inside of markup":      {regexp.MustCompile(`(?i)<script(>|\s[^>]*[^>]>[^<])|javascript:`), `<script>go()</script>`},
	"a frame, form target or object": {regexp.MustCompile(`(?i)<(iframe|object|embed|base|form)\b`), `<iframe>`},
	"something kept in the browser":  {regexp.MustCompile(`localStorage|sessionStorage|document\.cookie|indexedDB|serviceWorker`), `localStorage.x = 1`},
	"motion":                         {regexp.MustCompile(`(?i)@keyframes|\btransition\b|\banimation\b|<animate`), `transition: all 1s`},
	"a style from elsewhere":         {regexp.MustCompile(`(?i)@import|url\(`), `@import "x"`},
}

func TestNoPartReachesOutOrTurnsDataIntoCode(t *testing.T) {
	t.Parallel()
	namespace := regexp.MustCompile(`http://www\.w3\.org/2000/svg`)
	for what, f := range forbidden {
		if !f.pattern.MatchString(f.example) {
			t.Errorf("%s: the pattern does not find %s", what, f.example)
		}
		for name, text := range parts(t) {
			text = namespace.ReplaceAllString(text, "")
			if found := f.pattern.FindString(comments.ReplaceAllString(text, "")); found != "" {
				t.Errorf("%s has %s: %q", name, what, found)
			}
		}
	}
}

var comments = regexp.MustCompile(`(?m)^\s*// .*$`)

func TestEveryPartIsAskedForAndEveryPartAskedForExists(t *testing.T) {
	t.Parallel()
	all := parts(t)
	asked := map[string]bool{"index.html": true}
	for _, m := range regexp.MustCompile(`(?:src|href)="page/([^"]+)"`).FindAllStringSubmatch(all["index.html"], -1) {
		asked[m[1]] = true
	}
	for _, text := range all {
		for _, m := range regexp.MustCompile(`from "\./([^"]+)"`).FindAllStringSubmatch(text, -1) {
			asked[m[1]] = true
		}
	}
	there := map[string]bool{}
	for name := range all {
		there[name] = true
	}
	if diff := cmp.Diff(asked, there); diff != "" {
		t.Errorf("parts (-asked for +there):\n%s", diff)
	}
}

func TestThePageStaysSmall(t *testing.T) {
	t.Parallel()
	const all, one, lines = 80 << 10, 12 << 10, 300
	total := 0
	for name, text := range parts(t) {
		total += len(text)
		if n := strings.Count(text, "\n"); len(text) > one || n > lines {
			t.Errorf("%s has %d bytes in %d lines: split it by what it is about", name, len(text), n)
		}
		if !strings.Contains(text, "SPDX-License-Identifier: MPL-2.0") && path.Ext(name) != ".svg" {
			t.Errorf("%s has no licence header", name)
		}
		if strings.ContainsAny(text, "\t\r") || strings.Contains(text, " \n") || !strings.HasSuffix(text, "\n") {
			t.Errorf("%s is not formatted: tabs, carriage returns, spaces at an end of line, or no end of the last line", name)
		}
	}
	if total > all {
		t.Errorf("the page has %d bytes, more than %d", total, all)
	}
}
