// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// testFirstCall runs the first example, measures how long a person waits for
// the first call, and changes the intention.
func testFirstCall(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "api", map[string]string{"web": "allow", "nightly": "allow"})
	began := time.Now()
	job := l.runWith(t, "web-api.nomad.hcl", nil)
	web := l.alloc(t, job, "web")
	web.answers(t, 9191, "hello from api")
	t.Logf("from job to first call: %v", time.Since(began).Round(time.Millisecond))
	until(t, "the application itself was answered", func() error {
		if text := web.stdout(t, "app"); !strings.Contains(text, "hello from api") {
			return fmt.Errorf("it wrote %q", last(text))
		}
		return nil
	})
	l.intend(t, "api", map[string]string{"web": "deny", "nightly": "allow"})
	web.refuses(t, 9191)
	l.intend(t, "api", map[string]string{"web": "allow", "nightly": "allow"})
	web.answers(t, 9191, "hello from api")
	// The batch job calls the same service, once.
	runBatch(t, l)
}

func runBatch(t testing.TB, l *lab) {
	t.Helper()
	job := l.runWith(t, "batch.nomad.hcl", nil)
	until(t, "the batch job has ended well", func() error {
		stubs, _, err := l.api.Jobs().Allocations(*job.ID, true, nil)
		if err != nil {
			return err
		}
		for _, stub := range stubs {
			if stub.ClientStatus == "complete" && !stub.TaskStates["report"].Failed {
				a := &alloc{lab: l, Allocation: allocation(stub.ID)}
				if text := a.stdout(t, "report"); !strings.Contains(text, "hello from api") {
					return fmt.Errorf("the report is %q", text)
				}
				if len(stubs) != 1 || stub.TaskStates["report"].Restarts != 0 {
					t.Errorf("%d allocations, %d restarts: the first call should have been answered", len(stubs), stub.TaskStates["report"].Restarts)
				}
				return nil
			}
		}
		return fmt.Errorf("%d allocations, none complete", len(stubs))
	})
}

// testCanary deploys a canary that a splitter gives a tenth of the requests, and
// promotes it, under load and without a failure.
func testCanary(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "greeter", map[string]string{"guest": "allow"})
	l.configEntry(t, "Kind = \"service-defaults\"\nName = \"greeter\"\nProtocol = \"http\"\n")
	l.configEntry(t, `
		Kind          = "service-resolver"
		Name          = "greeter"
		DefaultSubset = "stable"
		Subsets = {
			stable = { Filter = "Service.Meta.version == stable" }
			canary = { Filter = "Service.Meta.version == canary" }
		}
		Failover = { canary = { ServiceSubset = "stable" } }`)
	split := func(stable, canary int) {
		l.configEntry(t, fmt.Sprintf("Kind = \"service-splitter\"\nName = \"greeter\"\nSplits = [{ Weight = %d, ServiceSubset = \"stable\" }, { Weight = %d, ServiceSubset = \"canary\" }]\n", stable, canary))
	}
	split(100, 0)
	job := l.runWith(t, "canary.nomad.hcl", nil)
	guest := l.alloc(t, l.run(t, shape{"guest", []group{{name: "guest", upstreams: map[string]int{"greeter": 5000}}}}.String()), "guest")
	l.allocs(t, job, "greeter", 2)
	guest.answers(t, 5000, "hello")
	load := guest.load(t, 5000, pythonsQueue, 10*time.Millisecond)
	load.more(t, 200)

	l.runWith(t, "canary.nomad.hcl", map[string]string{"greeting": "bonjour"})
	l.allocs(t, job, "greeter", 3)
	l.passing(t, "greeter-sidecar-proxy", 3)
	load.more(t, 300)
	if n := load.seen("bonjour"); n != 0 {
		t.Errorf("the canary answered %d requests before the splitter said so", n)
	}
	split(90, 10)
	until(t, "the canary is called", func() error {
		if load.seen("bonjour") == 0 {
			return fmt.Errorf("only the others are")
		}
		return nil
	})
	seen := load.since()
	load.more(t, 2000)
	share := seen()
	// Five standard deviations of 2,000 requests.
	if n := share["bonjour"]; n < 130 || n > 270 {
		t.Errorf("the canary answered %d of about 2,000 requests, want a tenth: %v", n, share)
	}
	deployment, _, err := l.api.Jobs().LatestDeployment(*job.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the canary is healthy", func() error {
		now, _, err := l.api.Deployments().Info(deployment.ID, nil)
		if err == nil && now.TaskGroups["greeter"].HealthyAllocs < 1 {
			err = fmt.Errorf("%s", now.StatusDescription)
		}
		return err
	})
	if _, _, err := l.api.Deployments().PromoteAll(deployment.ID, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "every instance is of the new version", func() error {
		now, _, err := l.api.Deployments().Info(deployment.ID, nil)
		if err == nil && now.Status != "successful" {
			err = fmt.Errorf("%s: %s", now.Status, now.StatusDescription)
		}
		return err
	})
	until(t, "nobody answers with the old version", func() error {
		seen := load.since()
		load.more(t, 100)
		if bodies := seen(); bodies["hello"] != 0 {
			return fmt.Errorf("answers: %v", bodies)
		}
		return nil
	})
	load.unharmed(t)
}

// passing waits until n instances of a service pass their checks.
func (l *lab) passing(t testing.TB, service string, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d instances of %s pass", n, service), func() error {
		out := l.consul.Command(t, "catalog", "services")
		if !strings.Contains(out, service) {
			return fmt.Errorf("services are %s", out)
		}
		have, against, err := healthy(l, service)
		if err == nil && have != n {
			err = fmt.Errorf("%d do%s", have, against)
		}
		return err
	})
}

// testDatacenters calls a service of another datacenter directly.
func testDatacenters(t *testing.T, l *lab) {
	t.Parallel()
	far := realserver.StartConsul(t, realserver.Token(managementToken), realserver.NodeName("far"), realserver.HCL(fmt.Sprintf(`
		datacenter         = "dc2"
		primary_datacenter = "dc1"
		ports { serf_wan = 8402 }
		acl {
			enabled                  = true
			default_policy           = "deny"
			enable_token_replication = true
			tokens {
				agent       = %[1]q
				replication = %[1]q
			}
		}
		retry_join_wan = ["127.0.0.1:%[2]d"]`, managementToken, wanPort)))
	l.intend(t, "archive", map[string]string{"reports": "allow"})
	port := l.appOnHost(t, "from afar")
	l.agentOnHost(t, far, fmt.Sprintf(`
		service {
			name    = "archive"
			port    = %d
			address = %q
			connect {
				sidecar_service {
					port = 21200
				}
			}
		}`, port, realserver.HostAddress))
	reports := l.alloc(t, l.runWith(t, "two-datacenters.nomad.hcl", nil), "reports")
	reports.answers(t, 9191, "from afar")
}

// appOnHost runs the application on the host, and returns its port.
func (l *lab) appOnHost(t testing.TB, says string) int {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	_ = probe.Close()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	start(t, append(os.Environ(), appVariable+"="+says, "APP_LISTEN="+address), "testapp")
	until(t, "the application listens", func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return port
}

// agentOnHost runs an outrider agent on the host.
func (l *lab) agentOnHost(t testing.TB, consul *realserver.Consul, config string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "outrider.hcl")
	write(t, file, fmt.Sprintf("consul {\n address = %q\n token = %q\n}\nadmin { address = \"unix://%s/admin.sock\" }\n%s", consul.Addr, managementToken, dir, config))
	start(t, os.Environ(), "outrider", "agent", "-config", file)
}

// start runs one of the programs until the test ends.
func start(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs(), name), args...)
	cmd.Env = env
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of %s on the host:\n%s", name, last(string(text)))
		}
	})
}

// testAgents runs the system job: an agent on every client, for what does not run
// under Nomad.
func testAgents(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "database", map[string]string{"ledgers": "allow"})
	job := l.runWith(t, "agents.nomad.hcl", map[string]string{"consul": l.consul.Addr, "port": fmt.Sprint(l.appOnHost(t, "rows"))})
	l.alloc(t, job, "agent")
	ledgers := l.alloc(t, l.run(t, shape{"ledgers", []group{{name: "ledgers", upstreams: map[string]int{"database": 5000}}}}.String()), "ledgers")
	ledgers.answers(t, 5000, "rows")
}
