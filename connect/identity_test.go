// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"net/url"
	"strings"
	"testing"
)

const td = "11111111-2222-3333-4444-555555555555.consul"

func TestParseIdentity(t *testing.T) {
	web := Identity{TrustDomain: td, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"}
	other := web
	other.Partition = "team-a"
	slash := web
	slash.Service = "a/b"
	for _, tc := range []struct {
		uri  string
		want Identity
		err  string
	}{
		{"spiffe://" + td + "/ns/default/dc/dc1/svc/web", web, ""},
		{"SPIFFE://" + strings.ToUpper(td) + "/ns/default/dc/dc1/svc/web", web, ""},
		{"spiffe://" + td + "/ap/Team-A/ns/default/dc/dc1/svc/web", other, ""},
		{"spiffe://" + td + "/ns/default/dc/dc1/svc/a%2Fb", slash, ""},
		{"spiffe://" + td + "/ns/default/dc/dc1/svc/a/b", Identity{}, "not that of a service"},
		{"spiffe://" + td + "/gateway/mesh/dc/dc1", Identity{}, "not that of a service"},
		{"spiffe://" + td + "/agent/client/dc/dc1/id/n1", Identity{}, "not that of a service"},
		{"spiffe://" + td + "/agent/server/dc/dc1", Identity{}, "not that of a service"},
		{"spiffe://" + td, Identity{}, "path is empty"},
		{"spiffe://" + td + "/ns/default/dc//svc/web", Identity{}, "segment 4 is empty"},
		{"spiffe://" + td + "/ns/default/dc/dc1/svc/web/", Identity{}, "is empty"},
		{"https://" + td + "/ns/default/dc/dc1/svc/web", Identity{}, "scheme"},
		{"spiffe://" + td + ":80/ns/default/dc/dc1/svc/web", Identity{}, "not a trust domain"},
		{"spiffe://user@" + td + "/ns/default/dc/dc1/svc/web", Identity{}, "only a trust domain"},
		{"spiffe://" + td + "/ns/default/dc/dc1/svc/web?x=1", Identity{}, "only a trust domain"},
		{"spiffe:///ns/default/dc/dc1/svc/web", Identity{}, "not a trust domain"},
		{"spiffe:" + td, Identity{}, "only a trust domain"},
	} {
		u, err := url.Parse(tc.uri)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseIdentity(u)
		switch {
		case tc.err == "" && (err != nil || got != tc.want):
			t.Errorf("%s: got %+v, %v", tc.uri, got, err)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: got %+v, error %v, want %q", tc.uri, got, err, tc.err)
		}
	}
	if _, err := ParseIdentity(nil); err == nil {
		t.Error("no URI is an identity")
	}
}

func FuzzIdentity(f *testing.F) {
	for _, s := range []string{
		"spiffe://" + td + "/ns/default/dc/dc1/svc/web", "spiffe://" + td + "/ap/a/ns/default/dc/dc1/svc/web",
		"spiffe://x/ns/%2e%2e/dc/%00/svc/%2f", "spiffe://x/ns//dc//svc/", "spiffe:x", "://",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, err := ParseIdentity(u)
		if err != nil {
			return
		}
		if id.TrustDomain == "" || id.Partition == "" || id.Namespace == "" || id.Datacenter == "" || id.Service == "" {
			t.Fatalf("%q has an empty part: %+v", s, id)
		}
		// The canonical form must mean the same, however odd the input was.
		again, err := url.Parse(id.String())
		if err != nil {
			t.Fatalf("%q: canonical form %q: %v", s, id, err)
		}
		if back, err := ParseIdentity(again); err != nil || back != id {
			t.Fatalf("%q: %+v became %+v, %v", s, id, back, err)
		}
	})
}

func FuzzCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte(strings.Repeat("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", 3)))
	f.Fuzz(func(t *testing.T, bundle []byte) {
		certs, err := ParseCertificates(bundle)
		if (err == nil) == (len(certs) == 0) || len(certs) > maxCertificates {
			t.Fatalf("%d certificates, error %v", len(certs), err)
		}
	})
}
