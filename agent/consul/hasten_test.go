// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// The interval of these checks is so long that none of them passes by itself.
const never = "30m"

func TestAListeningSidecarPassesSoonAndItsCheckStaysWhatItWas(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := r.hasty(t, "api", l.Addr().(*net.TCPAddr).Port)
	began := time.Now()
	passes, err := client.HastenCheck(t.Context(), "api-sidecar-proxy", realManagement)
	if err != nil || !passes {
		t.Fatalf("%t, %v", passes, err)
	}
	t.Logf("it passed after %v", time.Since(began).Round(time.Millisecond))
	if found, err := client.sidecarCheck(t.Context(), "api-sidecar-proxy", listeningCheck, "tcp"); err != nil || found.Status != api.HealthPassing || found.Interval != never+"0s" {
		t.Errorf("the check is %+v, %v", found, err)
	}
	if passes, err = client.HastenCheck(t.Context(), "api-sidecar-proxy", realManagement); passes || err != nil {
		t.Errorf("one that passes is left alone: %t, %v", passes, err)
	}
}

func TestASidecarThatDoesNotListenStaysCritical(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	client := r.hasty(t, "api", l.Addr().(*net.TCPAddr).Port)
	passes, err := client.HastenCheck(t.Context(), "api-sidecar-proxy", realManagement)
	if passes || err != nil {
		t.Errorf("%t, %v", passes, err)
	}
	if found, err := client.sidecarCheck(t.Context(), "api-sidecar-proxy", listeningCheck, "tcp"); err != nil || found.Status != api.HealthCritical || found.Interval != never+"0s" {
		t.Errorf("the check is %+v, %v", found, err)
	}
	failing, err := client.FailingChecks(t.Context())
	if err != nil || len(failing) != 1 || failing[0].ServiceID != "api-sidecar-proxy" || !strings.Contains(failing[0].Output, l.Addr().String()+": connect: connection refused") {
		t.Errorf("what fails is %+v, %v", failing, err)
	}
	if _, err := client.HastenCheck(t.Context(), "nobody", realManagement); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("of nobody: %v", err)
	}
	if _, err := client.HastenCheck(t.Context(), "api-sidecar-proxy", "no-such-token"); err == nil || !strings.Contains(err.Error(), "ACL not found") {
		t.Errorf("with a token that does not exist: %v", err)
	}
}

// hasty registers a service with the default check of its sidecar.
func (r *real) hasty(t *testing.T, name string, port int) *Client {
	t.Helper()
	err := r.api.Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: name, Port: 9090,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Address: "127.0.0.1", Port: port,
			Checks: api.AgentServiceChecks{
				{Name: aliasCheck + name, AliasService: name},
				{Name: listeningCheck, TCP: fmt.Sprintf("127.0.0.1:%d", port), Interval: never},
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(Config{Address: r.Addr, Token: realManagement}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestHealthThatConsulForgotToPublishIsPublished registers services twice at once
// until Consul takes the result of a check for published that is not. Should it
// stop to do so, PublishHealth has no reason to be any more.
func TestHealthThatConsulForgotToPublishIsPublished(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	forgotten := 0
	for batch := 0; forgotten == 0; batch++ {
		if batch == 20 {
			t.Fatal("of 1,000 registrations Consul forgot to publish none")
		}
		var client *Client
		var names []string
		for i := range 50 {
			names = append(names, fmt.Sprintf("twice-%d-%d", batch, i))
			for range 2 {
				client = r.hasty(t, names[i], 9)
			}
		}
		for _, name := range names {
			if publishes(t, client, name+"-sidecar-proxy") {
				forgotten++
			}
		}
	}
	t.Logf("%d had been forgotten", forgotten)
}

// publishes brings the alias check of a sidecar into the catalog, unchanged, and
// reports whether that took more than to wait.
func publishes(t *testing.T, client *Client, id string) bool {
	t.Helper()
	before, err := client.sidecarCheck(t.Context(), id, aliasCheck, "alias")
	if err != nil || before.Status != api.HealthPassing {
		t.Fatalf("%+v, %v", before, err)
	}
	again, err := client.PublishHealth(t.Context(), id, realManagement)
	if err != nil {
		t.Fatal(err)
	}
	after, err := client.sidecarCheck(t.Context(), id, aliasCheck, "alias")
	after.Interval, after.Timeout = before.Interval, before.Timeout // of an alias none, in two spellings
	if err != nil || after != before {
		t.Errorf("the check was %+v and is %+v, %v", before, after, err)
	}
	if published, err := client.published(t.Context(), id, after); err != nil || published != api.HealthPassing {
		t.Errorf("the catalog says %q of %s, %v", published, id, err)
	}
	return again
}
