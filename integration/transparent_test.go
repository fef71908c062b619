// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

const (
	inNamespace   = "OUTRIDER_TEST_IN_NAMESPACE"
	transparentIP = "10.77.0.1" // of the host
	outsideIP     = "10.77.0.2" // of somebody outside the mesh
	outboundPort  = 15001
)

// TestTransparentProxy runs its parts in a network namespace of its own, with
// Consul and sidecars in it, whose rules redirect whatever another user than
// theirs calls.
func TestTransparentProxy(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Parallel()
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTransparentProxy$", "-test.v", "-test.timeout=300s") //nolint:gosec // it is this program
		child.Env = append(os.Environ(), inNamespace+"=1")
		child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := child.CombinedOutput()
		t.Logf("%s", out)
		if err != nil || strings.Count(string(out), "    --- PASS:") != 2 {
			t.Fatalf("in a namespace of its own, which needs root and iptables: %v", err)
		}
		return
	}
	for _, line := range []string{
		"ip link set lo up", "ip address add " + transparentIP + "/32 dev lo", "ip address add " + outsideIP + "/32 dev lo",
		"ip route add default dev lo src " + transparentIP,
		"iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner 0 -j RETURN",
		"iptables -t nat -A OUTPUT -p tcp -d 127.0.0.1/32 -j RETURN",
		fmt.Sprintf("iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-port %d", outboundPort),
	} {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil { //nolint:gosec // constants of this file
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	t.Run("virtual IPs come and go with intentions", testVirtualIPs)
	t.Run("a hundred upstreams leave room for others at Consul", testHundredUpstreams)
}

// asApp calls as another user than ours, whom the rules redirect, and returns
// the first line of who answers. A socket belongs to whom its thread's file
// system user is.
func asApp(address string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		return "", err
	}
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if back := syscall.Setfsuid(0); back != nil {
		panic(back)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// reaches is a condition for until: "" is nobody.
func reaches(address, name string) func() error {
	return func() error {
		got, err := asApp(address)
		if got != name || (name != "" && err != nil) {
			return fmt.Errorf("%s is answered by %q: %w", address, got, errors.Join(err, errors.New("want "+strconv.Quote(name))))
		}
		return nil
	}
}

// manage sends a request with the management token.
func manage(t *testing.T, consul *realserver.Consul, method, path, body string, out any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+consul.Addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Consul-Token", management)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s: sent %s", method, path, res.Status, body)
	}
	if out != nil {
		if err := json.NewDecoder(res.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
}

// virtualIPOf asks Consul's servers.
func virtualIPOf(t *testing.T, consul *realserver.Consul, name string) string {
	t.Helper()
	var answer struct {
		Chain struct{ AutoVirtualIPs []string }
	}
	until(t, "Consul gives "+name+" a virtual IP", func() error {
		manage(t, consul, http.MethodGet, "/v1/discovery-chain/"+name, "", &answer)
		if len(answer.Chain.AutoVirtualIPs) != 1 {
			return fmt.Errorf("%v", answer.Chain.AutoVirtualIPs)
		}
		return nil
	})
	return answer.Chain.AutoVirtualIPs[0]
}

// transparentWeb is the sidecar of web in transparent mode, registered as Nomad
// does, with a service identity token.
func transparentWeb(t *testing.T, consul *realserver.Consul, upstreams string) *outrider {
	t.Helper()
	manage(t, consul, http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"web","Address":"127.0.0.1","Port":1,"Connect":{"SidecarService":{
		"Port":%d,"Proxy":{"Mode":"transparent","Upstreams":[%s]}}}}`, freePort(t), upstreams), nil)
	o := &outrider{admin: filepath.Join(t.TempDir(), "admin.sock")}
	o.runWith(t, []string{"PATH=" + os.Getenv("PATH"), "CONSUL_HTTP_ADDR=" + consul.Addr, "CONSUL_HTTP_TOKEN=" + tokenFor(t, consul, "web")},
		"sidecar", "-sidecar-for", "web", "-admin", "unix://"+o.admin, "-log-level", "debug")
	o.waitReady(t)
	return o
}

func withToken(t *testing.T, consul *realserver.Consul, name string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	writeFile(t, file, tokenFor(t, consul, name))
	startWithToken(t, consul, file, service{name: name, app: app(t, name)}.stanza(t)).waitReady(t)
}

func testVirtualIPs(t *testing.T) {
	consul := aclConsul(t)
	for _, name := range []string{"api", "db"} {
		withToken(t, consul, name)
	}
	outside, err := net.Listen("tcp", outsideIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Close() })
	go greet(outside)
	api, db, dbPort := virtualIPOf(t, consul, "api")+":80", virtualIPOf(t, consul, "db")+":5432", freePort(t)
	intend(t, consul, "allow", "web", "db")
	web := transparentWeb(t, consul, fmt.Sprintf(`{"DestinationName":"db","LocalBindPort":%d}`, dbPort))
	until(t, "db is reached by its virtual IP", reaches(db, "db"))
	if got, _ := asApp(api); got != "" {
		t.Errorf("%q answers although no intention allows it", got)
	}
	open := mustDial(t, dbPort)

	intend(t, consul, "allow", "web", "api")
	began := time.Now()
	until(t, "api is reached by its virtual IP", reaches(api, "api"))
	t.Logf("an intention made a virtual IP reachable after %v", time.Since(began))
	consul.Command(t, "intention", "delete", "web", "api")
	until(t, "the virtual IP of api leads nowhere", func() error {
		return errors.Join(reaches(api, "")(), hasUpstream(web, t, "api", false))
	})
	if err := open.ping(); err != nil {
		t.Errorf("an open connection to an explicit upstream: %v", err)
	}
	if err := pingOnce(dbPort); err != nil {
		t.Errorf("an explicit upstream: %v", err)
	}
	if said := fmt.Sprint(web.status(t).Proxy.Recent); !strings.Contains(said, "belongs to no service that intentions allow") {
		t.Errorf("the refusal is not explained: %s", said)
	}
	testPassthrough(t, consul, outside.Addr().String())
}

// testPassthrough is about addresses outside the mesh.
func testPassthrough(t *testing.T, consul *realserver.Consul, outside string) {
	t.Helper()
	until(t, "an address outside is reached", reaches(outside, "outside"))
	manage(t, consul, http.MethodPut, "/v1/config", `{"Kind":"mesh","TransparentProxy":{"MeshDestinationsOnly":true}}`, nil)
	until(t, "the address outside is refused", reaches(outside, ""))
	manage(t, consul, http.MethodDelete, "/v1/config/mesh/mesh", "", nil)
	until(t, "the address outside is reached again", reaches(outside, "outside"))
	// As a destination behind a terminating gateway, it must not be called around
	// that. The intention is what makes Consul answer at once.
	host, port, _ := net.SplitHostPort(outside)
	manage(t, consul, http.MethodPut, "/v1/config", fmt.Sprintf(`{"Kind":"service-defaults","Name":"ext","Destination":{"Addresses":[%q],"Port":%s}}`, host, port), nil)
	intend(t, consul, "allow", "web", "api")
	until(t, "the destination is refused", reaches(outside, ""))
}

func hasUpstream(o *outrider, t *testing.T, id string, want bool) error {
	t.Helper()
	for _, u := range o.status(t).Proxy.Upstreams {
		if string(u.ID) == id {
			if !want {
				return fmt.Errorf("%s is an upstream", id)
			}
			return nil
		}
	}
	if want {
		return fmt.Errorf("%s is no upstream", id)
	}
	return nil
}

// greet answers every connection in the name of somebody outside.
func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("outside\n"))
		_ = c.Close()
	}
}

// testHundredUpstreams: Consul's agent allows one address 200 connections, and
// two for each upstream would be all of them.
func testHundredUpstreams(t *testing.T) {
	consul := aclConsul(t)
	withToken(t, consul, "api")
	for i := range 99 {
		manage(t, consul, http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"s%02d","Port":1,"Connect":{"SidecarService":{"Port":%d,"Checks":[{"TTL":"1h"}]}}}`, i, 30000+i), nil)
	}
	intend(t, consul, "allow", "*", "*")
	api := virtualIPOf(t, consul, "api") + ":80"
	before := connectionsTo(t, consul.Addr)
	web := transparentWeb(t, consul, "")
	until(t, "there are a hundred upstreams with virtual IPs", func() error {
		n := 0
		for _, u := range web.status(t).Proxy.Upstreams {
			if u.Implicit && len(u.VirtualIPs) == 1 {
				n++
			}
		}
		if n != 100 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	until(t, "one of them is reached", reaches(api, "api"))
	most := connectionsTo(t, consul.Addr) - before
	t.Logf("%d connections to Consul with 100 implicit upstreams, one of them used", most)
	if most > 30 {
		t.Errorf("%d connections to Consul with 100 implicit upstreams, one of them used", most)
	}
	for _, w := range watches(t, web) {
		if w.Error != "" {
			t.Errorf("%s: %s", w.Key, w.Error)
		}
	}
}

// connectionsTo counts the connections of this namespace to an address.
func connectionsTo(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	text, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[3] == "01" && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", n)) {
			count++
		}
	}
	return count
}

func watches(t *testing.T, o *outrider) []agent.WatchStatus {
	t.Helper()
	body, err := o.ask("/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	return s.Watches
}
