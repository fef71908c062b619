// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package page is the page of a host: what its sidecars do, in a browser. It
// must not change anything, and shows nothing that the admin API does not tell
// the same reader.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed assets
var assets embed.FS

// policy allows what the page is made of and nothing else: no script, style,
// picture or connection of another origin or inside of the document, no frame
// around it, and no text that becomes markup (Content Security Policy Level 3
// and Trusted Types of the W3C).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// An asset is one file of the page.
type asset struct {
	body []byte
	kind string // Content-Type
	etag string
}

// A Page serves the page at / and its parts below /page/. It needs the resources
// /v1/status, and where there are any /v1/series, /v1/failures and /v1/explain
// of the same origin. Its links are relative, so that it also works below a path
// that a tunnel adds. Make it with [New].
type Page struct{ files map[string]asset }

// New returns the page. The error says that the program was built without a part
// of it.
func New() (*Page, error) {
	p := &Page{files: make(map[string]asset)}
	entries, err := fs.ReadDir(assets, "assets")
	if err != nil {
		return nil, fmt.Errorf("read the parts of the page: %w; build the program anew", err)
	}
	for _, e := range entries {
		a, err := read(e.Name())
		if err != nil {
			return nil, err
		}
		where := "/page/" + e.Name()
		if e.Name() == "index.html" {
			where = "/"
		}
		p.files[where] = a
	}
	return p, nil
}

func read(name string) (asset, error) {
	kinds := map[string]string{
		".html": "text/html; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
		".svg":  "image/svg+xml",
	}
	kind, known := kinds[path.Ext(name)]
	if !known {
		return asset{}, fmt.Errorf("read %s of the page: its kind is not known; build the program anew", name)
	}
	body, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return asset{}, fmt.Errorf("read %s of the page: %w; build the program anew", name, err)
	}
	sum := sha256.Sum256(body)
	return asset{body: body, kind: kind, etag: `"` + hex.EncodeToString(sum[:12]) + `"`}, nil
}

// ServeHTTP answers GET and HEAD.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protect(w.Header())
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "the page is read-only", http.StatusMethodNotAllowed)
		return
	}
	a, known := p.files[r.URL.Path]
	if !known {
		http.Error(w, "there is no such page; the page of this host is at /", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("ETag", a.etag)
	if strings.Contains(r.Header.Get("If-None-Match"), a.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", fmt.Sprint(len(a.body)))
	if r.Method == http.MethodGet {
		_, _ = bytes.NewReader(a.body).WriteTo(w)
	}
}

// protect tells browsers what other pages may do with an answer: nothing. Parts
// are asked for anew each time, so that an upgrade does not mix two versions.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-cache")
}
