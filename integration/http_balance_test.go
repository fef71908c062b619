// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// fleet is n instances that say which they are.
func fleet(t *testing.T, n int) []service {
	t.Helper()
	var out []service
	for i := range n {
		out = append(out, service{app: httpApp(t, fmt.Sprintf("instance %d", i+1))})
	}
	return out
}

func ringHashSticks(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-resolver","Name":"ring","LoadBalancer":{"Policy":"ring_hash","HashPolicies":[{"Field":"header","FieldValue":"x-user"}]}}`)
	_, c := pair(t, consul, "ring", service{}, fleet(t, 3)...)
	serving := map[string]int{}
	for user := range 30 {
		name := "user " + strconv.Itoa(user)
		first := c.want(t, http.StatusOK, "/", "X-User", name).Server
		serving[first]++
		for range 4 {
			if got := c.want(t, http.StatusOK, "/", "X-User", name).Server; got != first {
				t.Errorf("%s is served by %q after %q", name, got, first)
			}
		}
	}
	if len(serving) < 2 {
		t.Errorf("30 users are served by %v", serving)
	}
}

func aGeneratedCookieSticks(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-resolver","Name":"jar","LoadBalancer":{"Policy":"maglev","HashPolicies":[
		{"Field":"cookie","FieldValue":"session","CookieConfig":{"TTL":"1h","Path":"/shop"}}]}}`)
	_, c := pair(t, consul, "jar", service{}, fleet(t, 3)...)
	serving := map[string]int{}
	for range 20 {
		first := c.want(t, http.StatusOK, "/")
		cookies := (&http.Response{Header: first.header}).Cookies()
		if len(cookies) != 1 || cookies[0].Name != "session" || cookies[0].Path != "/shop" || cookies[0].MaxAge != 3600 || cookies[0].Value == "" {
			t.Fatalf("set-cookie is %q", first.header["Set-Cookie"])
		}
		serving[first.Server]++
		for range 4 {
			got := c.want(t, http.StatusOK, "/", "Cookie", "other=1; session="+cookies[0].Value)
			if got.Server != first.Server || len(got.header["Set-Cookie"]) > 0 {
				t.Errorf("served by %q after %q, with the cookies %q", got.Server, first.Server, got.header["Set-Cookie"])
			}
		}
	}
	if len(serving) < 2 {
		t.Errorf("20 sessions are served by %v", serving)
	}
}

func deadlinesArePassedOn(t *testing.T, consul *realserver.Consul) {
	const header = "X-Outrider-Deadline-Ms"
	app, ended := stuck(t)
	_, c := pair(t, consul, "due", service{}, service{app: httpApp(t, "app")})
	// Nothing but the deadline would end a request here.
	entry(t, consul, `{"Kind":"service-resolver","Name":"overdue","RequestTimeout":"10m"}`)
	_, held := pair(t, consul, "overdue", service{}, service{app: serve(t, app), proxy: untimed})
	left, err := strconv.Atoi(c.want(t, http.StatusOK, "/", header, "30000").Header.Get(header))
	if err != nil || left <= 0 || left >= 30000 {
		t.Errorf("the application is told %d ms of 30000: %v", left, err)
	}
	if got := c.want(t, http.StatusOK, "/").Header.Get(header); got != "" {
		t.Errorf("the application is told %s ms, the caller said nothing", got)
	}
	for _, passed := range []string{"0", "-5"} {
		if got := c.want(t, http.StatusGatewayTimeout, "/", header, passed); got.Server != "" || got.refused() != "request_timeout" {
			t.Errorf("with a deadline of %s ms it was answered by %q, reason %q", passed, got.Server, got.refused())
		}
	}
	began := time.Now()
	held.want(t, http.StatusGatewayTimeout, "/stuck", header, "2000")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("answered after %v of 2 s", took)
	}
	receive(t, ended, "the application to be told")
}

func theApplicationLearnsWhoCalled(t *testing.T, consul *realserver.Consul) {
	const header = "X-Forwarded-Client-Cert"
	_, c := pair(t, consul, "host", service{}, service{app: httpApp(t, "app")})
	xfcc := c.want(t, http.StatusOK, "/", header, "By=spiffe://forged;URI=spiffe://forged").Header.Values(header)
	if len(xfcc) != 1 || strings.Contains(xfcc[0], "forged") {
		t.Fatalf("x-forwarded-client-cert is %q", xfcc)
	}
	for _, part := range []string{"By=spiffe://", "/svc/host;Hash=", "/svc/web-host"} {
		if !strings.Contains(xfcc[0], part) {
			t.Errorf("x-forwarded-client-cert has no %q: %s", part, xfcc[0])
		}
	}
}

// statusShowsTargets asks the command that people use.
func statusShowsTargets(t *testing.T, consul *realserver.Consul) {
	versions(t, consul, "shown")
	entry(t, consul, `{"Kind":"service-splitter","Name":"shown","Splits":[{"Weight":50,"ServiceSubset":"v1"},{"Weight":50,"ServiceSubset":"v2"}]}`)
	v1, v2 := bothVersions(t)
	v1.inbound, v2.inbound = freePort(t), freePort(t)
	o, c := pair(t, consul, "shown", service{}, v1, v2)
	for range 10 {
		c.want(t, http.StatusOK, "/")
	}
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, "status", "-admin", "unix://"+o.admin)
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, problem.String())
	}
	_, text, _ := strings.Cut(out.String(), "web-shown (")
	for subset, port := range map[string]int{"v1": v1.inbound, "v2": v2.inbound} {
		_, below, found := strings.Cut(text, "target "+subset+".shown.default.default.dc1\n")
		endpoint, _, _ := strings.Cut(below, "\n")
		if want := fmt.Sprintf("127.0.0.1:%d on lab, weight 1", port); !found || !strings.Contains(endpoint, want) {
			t.Errorf("under the target of %s is %q, want %q:\n%s", subset, endpoint, want, out.String())
		}
	}
	if s := o.sidecar(t, "shown"); s.Proxy.Inbound.Requests == 0 {
		t.Errorf("no request is counted: %+v", s.Proxy.Inbound)
	}
}
