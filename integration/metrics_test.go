// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// scraped is what an address for Prometheus answers.
func scraped(t *testing.T, address string) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", res.Status, body)
	}
	return string(body), err
}

// hasSeries looks for a series with labels, in any order, and a value.
func hasSeries(text, name, value string, labels ...string) error {
	var near []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		near = append(near, line)
		for _, l := range labels {
			if !strings.Contains(line, l) {
				line = ""
			}
		}
		if ok, err := regexp.MatchString(`} `+value+`$`, line); ok && err == nil {
			return nil
		}
	}
	return fmt.Errorf("no %s of %q with value %s in %q", name, labels, value, near)
}

func TestMetricsGoWhereConsulSays(t *testing.T) {
	t.Parallel()
	consul := newHTTPMesh(t)
	address, socket := realserver.FreeAddr(t), filepath.Join(t.TempDir(), "dogstatsd.sock")
	var listen net.ListenConfig
	dog, err := listen.ListenPacket(t.Context(), "unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dog.Close() }()
	entry(t, consul, `{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http",
		"envoy_prometheus_bind_addr":%q, "envoy_dogstatsd_url":%s, "envoy_stats_tags":["env=test"], "envoy_stats_flush_interval":"1s"}}`,
		address, quoted(t, "unix://"+socket))
	entry(t, consul, `{"Kind":"service-intentions","Name":"till","Sources":[{"Name":"web-till","Permissions":[
		{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	o, c := pair(t, consul, "till", service{}, service{app: serve(t, app)})
	c.eventually(t, 200, "/")
	c.want(t, 200, "/orders?token=hush", "Authorization", "Bearer hush")
	c.want(t, 403, "/admin")

	edge := []string{`source="web-till"`, `destination="till"`, `env="test"`}
	in, out := append(edge[:3:3], `direction="inbound"`, `service="till"`), append(edge[:3:3], `direction="outbound"`, `service="web-till"`, `upstream="till"`)
	var text string
	until(t, "both sides have counted", func() error {
		if text, err = scraped(t, address); err != nil {
			return err
		}
		for _, labels := range [][]string{in, out} {
			if err := hasSeries(text, "outrider_requests_total", "1", append(labels, `code="4xx"`)...); err != nil {
				return err
			}
		}
		return nil
	})
	for _, err := range []error{
		hasSeries(text, "outrider_requests_total", `\d+`, append(in, `code="2xx"`)...),
		hasSeries(text, "outrider_edge_failures_total", "1", append(in, `reason="intention_denied"`, `side="local"`)...),
		hasSeries(text, "outrider_edge_failures_total", "1", append(out, `reason="intention_denied"`, `side="remote"`)...),
		hasSeries(text, "outrider_failures_total", "1", `service="till"`, `direction="inbound"`, `kind="request"`, `reason="intention_denied"`),
		hasSeries(text, "outrider_decisions_total", "1", `intention="web-till → till"`, `action="deny"`),
		hasSeries(text, "outrider_tls_handshakes_total", `[1-9]\d*`, `service="till"`, `direction="inbound"`, `result="full"`, `version="1.3"`),
		hasSeries(text, "outrider_connections_open", `[1-9]\d*`, in...),
		hasSeries(text, "outrider_leaf_seconds_to_expiry", `[1-9].*`, `service="till"`),
		hasSeries(text, "outrider_endpoints", "1", `service="web-till"`, `state="usable"`),
		hasSeries(text, "outrider_sources", `[1-9]\d*`, `kind="intentions"`),
		hasSeries(text, "outrider_tries_total", `[1-9]\d*`, `upstream="till"`, `retry="false"`),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(text, "hush") {
		t.Error("a secret is among the metrics")
	}
	if found, err := realserver.Promtool(t, []byte(text), "check", "metrics"); err != nil || strings.TrimSpace(found) != "" {
		t.Errorf("%v\n%s", err, found)
	}
	admin, err := o.ask("/metrics")
	if err != nil || hasSeries(string(admin), "outrider_requests_total", "1", append(in, `code="4xx"`)...) != nil {
		t.Errorf("on the admin socket: %v", err)
	}
	sentTo(t, dog, `outrider.requests_total:1|c|#code:4xx,destination:till,direction:inbound,env:test,`)
}

// sentTo waits until a line that begins so has come.
func sentTo(t *testing.T, receiver net.PacketConn, begins string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := receiver.SetReadDeadline(deadline.Round(time.Second)); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 64<<10)
	for {
		n, _, err := receiver.ReadFrom(packet)
		if err != nil {
			t.Fatalf("nobody sent %q: %v", begins, err)
		}
		for line := range strings.Lines(string(packet[:n])) {
			if strings.HasPrefix(line, begins) {
				return
			}
		}
	}
}
