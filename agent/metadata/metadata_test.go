// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEachCloudIsFoundAndSaysWhatTheMachineIs(t *testing.T) {
	want := map[string]map[string]string{
		awsName: {
			"cloud": "aws", "instance_id": "i-0abc12de3f4567890", "instance_type": "t3.micro", "region": "eu-central-1", "zone": "eu-central-1b",
			"private_ip": "10.0.1.17", "public_ip": "198.51.100.7", "account": "123456789012", "tags.Environment": "prod", "tags.Two words": "a b",
		},
		gcpName: {
			"cloud": "gcp", "instance_id": "3245728965346437643", "instance_type": "e2-small", "region": "europe-west3", "zone": "europe-west3-a",
			"private_ip": "10.156.0.2", "account": "mesh-prod", "tags.Environment": "prod",
		},
		azureName: {
			"cloud": "azure", "instance_id": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "instance_type": "Standard_A3", "region": "westeurope", "zone": "2",
			"private_ip": "10.144.133.132", "account": "8d10da13-8125-4ba9-a717-bf7490507b3d", "tags.Environment": "prod",
		},
	}
	for name, handler := range clouds() {
		t.Run(name, func(t *testing.T) {
			f := &fake{handler: handler}
			c := f.client(t, time.Second)
			got := map[string]string{}
			for word := range want[name] {
				value, err := c.Value(t.Context(), word)
				if err != nil {
					t.Fatalf("%s: %v", word, err)
				}
				got[word] = value
			}
			if diff := cmp.Diff(want[name], got); diff != "" {
				t.Error(diff)
			}
			before := f.questions()
			for word := range want[name] {
				if _, err := c.Value(t.Context(), word); err != nil {
					t.Error(err)
				}
			}
			if f.questions() != before {
				t.Error("what is known was asked again")
			}
			if slices.ContainsFunc(f.dials, func(a string) bool { return a != "169.254.169.254:80" }) {
				t.Errorf("it dialed %q", f.dials)
			}
		})
	}
}

func TestWhatTheCloudDoesNotSayIsNamedWithItsRemedy(t *testing.T) {
	for name, words := range map[string]map[string]string{
		awsName:   {"tags.None": "allow tags in its instance metadata"},
		gcpName:   {"tags.None": "custom metadata with this key", "public_ip": "take private_ip"},
		azureName: {"tags.None": "give the machine the tag", "public_ip": "take private_ip"},
	} {
		c := (&fake{handler: clouds()[name]}).client(t, time.Second)
		for word, remedy := range words {
			_, err := c.Value(t.Context(), word)
			if err == nil || !strings.Contains(err.Error(), remedy) || !strings.Contains(err.Error(), word) {
				t.Errorf("%s of %s = %v, want %q in it", word, name, err, remedy)
			}
		}
	}
}

func TestValuesAreCheckedBeforeTheyAreBelieved(t *testing.T) {
	const tag, id, ip = "/latest/meta-data/tags/instance/a", "/latest/meta-data/instance-id", "/latest/meta-data/local-ipv4"
	tests := []struct{ word, path, value string }{
		{"tags.a", tag, `{{ GetPrivateIP }}`},
		{"tags.a", tag, "${file(\"/etc/shadow\")}"},
		{"tags.a", tag, "a\x1b[31m"},
		{"tags.a", tag, "two\nlines"},
		{"tags.a", tag, "\u00e4"},
		{"tags.a", tag, strings.Repeat("a", maxTag+1)},
		{"instance_id", id, "i-1/../../x"},
		{"instance_id", id, ""},
		{"instance_id", id, strings.Repeat("a", maxValue+1)},
		{"instance_id", id, "a b"},
		{"private_ip", ip, "10.0.0.1, 10.0.0.2"},
		{"private_ip", ip, "fe80::1%eth0"},
		{"private_ip", ip, "localhost"},
		{"private_ip", ip, strings.Repeat("9", maxBytes+10)},
	}
	for _, test := range tests {
		c := (&fake{handler: cloudOf(awsName, map[string]string{test.path: test.value})}).client(t, time.Millisecond)
		if value, err := c.Value(t.Context(), test.word); err == nil {
			t.Errorf("%s = %.40q was believed", test.word, value)
		} else if len(test.value) > 3 && strings.Contains(err.Error(), test.value) {
			t.Errorf("the error repeats what was not believed: %v", err)
		}
	}
	c := (&fake{handler: clouds()[awsName]}).client(t, time.Second)
	if _, err := c.Value(t.Context(), "tags.../../../iam/security-credentials/"); err == nil {
		t.Error("a key of a tag reached another path")
	}
}

func TestRedirectsAndStrangersAreRefused(t *testing.T) {
	redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/evil", http.StatusFound)
	})
	stranger := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html> </html>")) })
	for name, handler := range map[string]http.Handler{"redirect": redirect, "stranger": stranger} {
		f := &fake{handler: handler}
		_, err := f.client(t, time.Minute).Value(t.Context(), "region")
		if err == nil || !strings.Contains(err.Error(), "neither AWS (with IMDSv2), Google Cloud nor Azure") {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(f.questions(), "evil") || strings.Count(f.questions(), "\n") != 2 {
			t.Errorf("%s: asked\n%s", name, f.questions())
		}
	}
}

func TestNobodyAnsweringIsGivenUpOnceAndForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{handler: clouds()[awsName], down: errors.New("no route to host")}
		c := f.client(t, 0)
		start := time.Now()
		_, err := c.Value(t.Context(), "region")
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("it asked for %s, want 30s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "no metadata service answers at 169.254.169.254: no route to host: is this machine in AWS") {
			t.Errorf("error %v", err)
		}
		dials := len(f.dials)
		if dials < 8 || dials > 20 {
			t.Errorf("%d tries in 30s", dials)
		}
		if _, again := c.Value(t.Context(), "zone"); !errors.Is(again, err) || len(f.dials) != dials {
			t.Errorf("the next value was asked for again: %v", again)
		}
	})
}

func TestATryThatHangsIsGivenUpAfterTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		start := time.Now()
		_, err := (&fake{handler: hang}).client(t, time.Millisecond).Value(t.Context(), "region")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestANetworkThatComesUpLateIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{handler: clouds()[gcpName], down: errors.New("network is unreachable")}
		c := f.client(t, 0)
		up := time.AfterFunc(20*time.Second, func() { f.setDown(nil) })
		defer up.Stop()
		value, err := c.Value(t.Context(), "zone")
		if err != nil || value != "europe-west3-a" {
			t.Errorf("zone = %q, %v", value, err)
		}
	})
}

func TestTheContextEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{down: errors.New("no route to host")}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := f.client(t, 0).Value(ctx, "zone"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %s", took)
		}
	})
}
