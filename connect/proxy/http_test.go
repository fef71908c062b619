// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func protocols() []connect.Protocol {
	return []connect.Protocol{connect.HTTP, connect.HTTP2, connect.GRPC}
}

// mirror answers with what it was asked.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Echo-Method", r.Method)
	w.Header().Set("Echo-Path", r.RequestURI)
	w.Header().Set("Echo-Host", r.Host)
	w.Header().Set("Echo-Proto", r.Proto)
	for name, values := range r.Header {
		for _, v := range values {
			w.Header().Add("Echo-Field", name+": "+v)
		}
	}
	_, _ = w.Write(body)
}

func TestRequestsAndResponsesComeThroughAsTheyWereSent(t *testing.T) {
	for _, protocol := range protocols() {
		t.Run(string(protocol), func(t *testing.T) {
			r := newHTTPPair(t, protocol, http.HandlerFunc(mirror))
			for _, path := range []string{"/", "/a%2Fb?x=%2F&y", "/a;b=c/d", "//twice", "/sp%20ace?", "/ü"} {
				req := newRequest(t, http.MethodPost, r.url(t, path), strings.NewReader("hello"), "X-Twice", "1", "X-Twice", "2", "Keep-Alive", "x")
				req.Host = "api.example"
				got := send(t, r.client(t), req)
				if got.status != 200 || got.body != "hello" {
					t.Fatalf("%s: %d %q %v", path, got.status, got.body, got.header)
				}
				want := strings.ReplaceAll(path, "ü", "%C3%BC")
				if got.header.Get("Echo-Path") != want || got.header.Get("Echo-Host") != "api.example" {
					t.Errorf("the application saw %q of %q, want %q", got.header.Get("Echo-Path"), got.header.Get("Echo-Host"), want)
				}
				fields := strings.Join(got.header["Echo-Field"], "\n")
				if !strings.Contains(fields, "X-Twice: 1\n") || !strings.Contains(fields, "X-Twice: 2") || strings.Contains(fields, "Keep-Alive") {
					t.Errorf("the application saw the fields\n%s", fields)
				}
			}
			version := "HTTP/1.1"
			if protocol != connect.HTTP {
				version = "HTTP/2.0"
			}
			if got := r.get(t, "/").header.Get("Echo-Proto"); got != version {
				t.Errorf("the application was spoken to in %s", got)
			}
		})
	}
}

func TestClientsOfTheOtherVersionAreServed(t *testing.T) {
	for protocol, h2 := range map[connect.Protocol]bool{connect.HTTP: true, connect.HTTP2: false} {
		r := newHTTPPair(t, protocol, http.HandlerFunc(mirror))
		got := send(t, clientOf(t, h2), newRequest(t, http.MethodPut, r.url(t, "/x"), bytes.NewReader(make([]byte, 1<<20))))
		if got.status != 200 || len(got.body) != 1<<20 {
			t.Errorf("%s: %d, %d bytes", protocol, got.status, len(got.body))
		}
	}
}

func TestTrailersComeThrough(t *testing.T) {
	for _, protocol := range protocols() {
		r := newHTTPPair(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-Announced")
			_, _ = fmt.Fprintf(w, "%s", r.Trailer.Get("X-Request-Sum"))
			w.Header().Set("X-Announced", "a")
			w.Header().Set(http.TrailerPrefix+"X-Late", "b")
		}))
		req := newRequest(t, http.MethodPost, r.url(t, "/"), io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Request-Sum": {"42"}}
		got := send(t, r.client(t), req)
		if got.body != "42" || got.trailer.Get("X-Announced") != "a" || got.trailer.Get("X-Late") != "b" {
			t.Errorf("%s: body %q, trailers %v", protocol, got.body, got.trailer)
		}
	}
}

// Whatever the application leaves out stays out, and the proxy names neither
// itself nor its library.
func TestNothingIsAddedOnTheWay(t *testing.T) {
	for _, protocol := range protocols() {
		r := newHTTPPair(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			var names []string
			for name := range r.Header {
				names = append(names, name)
			}
			slices.Sort(names)
			w.Header().Set("Seen", strings.Join(names, " "))
			_, _ = io.WriteString(w, "<html>")
		}))
		req := newRequest(t, http.MethodGet, r.url(t, "/"), nil)
		req.Header["User-Agent"] = nil
		req.Header.Set("Accept-Encoding", "identity")
		got := send(t, r.client(t), req)
		if kind := got.header["Content-Type"]; kind != nil {
			t.Errorf("%s: content type %q was guessed", protocol, kind)
		}
		want := "Accept-Encoding X-Forwarded-Client-Cert"
		if protocol == connect.GRPC {
			want = "Accept-Encoding"
		}
		if seen := got.header.Get("Seen"); seen != want {
			t.Errorf("%s: the application saw the fields %s", protocol, seen)
		}
	}
}
