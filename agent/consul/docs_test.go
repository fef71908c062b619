// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// What the documentation shows must do what it says when it is pasted.
func TestMetaOfTheDocumentationIsUnderstood(t *testing.T) {
	page, err := os.ReadFile("../../docs/http.md")
	if err != nil {
		t.Fatal(err)
	}
	meta := make(map[string]string)
	for _, m := range regexp.MustCompile(`"(outrider-[a-z-]+)" *= (".*")\n`).FindAllStringSubmatch(string(page), -1) {
		value, err := strconv.Unquote(m[2])
		if err != nil || len(value) > 512 { // Consul stores no more
			t.Errorf("%s: %d bytes, %v", m[1], len(value), err)
		}
		meta[m[1]] = value
	}
	got, err := convertDefaults(withMeta(t, "", meta), "api")
	if err != nil || len(got.Warnings) > 0 {
		t.Fatalf("%v, %q", err, got.Warnings)
	}
	if got.RateLimits.Rate != 100 || got.RateLimits.Burst != 200 || got.RateLimits.MaxBody != 10<<20 || len(got.RateLimits.Routes) != 1 || got.RateLimits.Routes[0].Rate != 10 {
		t.Errorf("rate limits %+v", got.RateLimits)
	}
	want := connect.Fault{
		Match: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/cart"}},
		Delay: 200 * time.Millisecond, DelayMillionths: 50_000, AbortStatus: 503, AbortMillionths: 5_000,
	}
	if len(got.Faults) != 1 || got.Faults[0].Match.Path != want.Match.Path || got.Faults[0].Delay != want.Delay ||
		got.Faults[0].DelayMillionths != want.DelayMillionths || got.Faults[0].AbortStatus != want.AbortStatus || got.Faults[0].AbortMillionths != want.AbortMillionths {
		t.Errorf("faults %+v", got.Faults)
	}
}
