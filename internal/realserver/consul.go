// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// consulVersion is the version the tests were written for.
const consulVersion = "1.22.3"

// An Option changes how a Consul is started.
type Option func(*options)

type options struct {
	hcl        []string
	token      string
	node       string
	persistent bool
}

// HCL adds a fragment of Consul's agent configuration. Later fragments win
// over earlier ones and over what this package sets.
func HCL(fragment string) Option {
	return func(o *options) { o.hcl = append(o.hcl, fragment) }
}

// Token is sent with the questions of this package and handed to commands it
// runs. It must exist from the start, as acl.tokens.initial_management does.
func Token(token string) Option { return func(o *options) { o.token = token } }

// NodeName sets the name of the Consul node, "lab" without it.
func NodeName(name string) Option { return func(o *options) { o.node = name } }

// Persistent makes an ordinary single server with a data folder, which keeps
// its state when it is killed and started again. Without it, Consul runs with
// -dev and forgets everything.
func Persistent() Option { return func(o *options) { o.persistent = true } }

// A Consul is one running agent: server, client and the only node of dc1. Its
// methods are for one goroutine at a time.
type Consul struct {
	*process

	// Addr is host:port of the HTTP API. A restart does not change it.
	Addr string
	// GRPC is host:port of the gRPC API, which configures Envoy. A restart does
	// not change it.
	GRPC string
	// Token is what the Token option set, "" for none.
	Token string

	options options
	path    string
	dir     string
	args    []string
}

// StartConsul starts an agent and waits until it has a leader, roots and its
// own node in the catalog. The agent is killed when t ends; its log is shown
// if t has failed. Goroutines that wait for it live as long, so a test that
// counts goroutines does so relative to the ones it began with.
func StartConsul(t testing.TB, opts ...Option) *Consul {
	t.Helper()
	o := options{node: "lab"}
	for _, option := range opts {
		option(&o)
	}
	c := &Consul{Token: o.token, options: o, path: binary(t, "consul", "OUTRIDER_CONSUL", consulVersion), dir: t.TempDir()}
	var err error
	// A free port may be taken before Consul binds it: then others are tried.
	for range 3 {
		c.choosePorts(t)
		c.process = start(t, "consul", c.dir, c.path, c.args, nil)
		if err = c.until(t, c.ready); !errors.Is(err, errExited) || !strings.Contains(c.Output(), "address already in use") {
			break
		}
	}
	if err != nil {
		t.Fatalf("start consul: %v; its log:\n%s", err, c.Output())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of consul at %s:\n%s", c.Addr, c.Output())
		}
	})
	return c
}

func (c *Consul) choosePorts(t testing.TB) {
	t.Helper()
	c.Addr, c.GRPC = FreeAddr(t), FreeAddr(t)
	ports := fmt.Sprintf(`ports { http = %s grpc = %s server = %s serf_lan = %s serf_wan = -1 grpc_tls = -1 dns = -1 https = -1 }`,
		port(c.Addr), port(c.GRPC), port(FreeAddr(t)), port(FreeAddr(t)))
	c.args = []string{
		"agent", "-node", c.options.node, "-bind", "127.0.0.1", "-client", "127.0.0.1", "-log-level", "info",
		"-hcl", ports, "-hcl", "disable_update_check = true",
	}
	if c.options.persistent {
		c.args = append(c.args, "-server", "-bootstrap-expect", "1", "-data-dir", c.dir+"/data",
			"-hcl", "connect { enabled = true }", "-hcl", "performance { raft_multiplier = 1 }")
	} else {
		c.args = append(c.args, "-dev")
	}
	for _, fragment := range c.options.hcl {
		c.args = append(c.args, "-hcl", fragment)
	}
}

// ready returns nil once the agent serves what a mesh needs.
func (c *Consul) ready(ctx context.Context) error {
	if c.Token != "" {
		if _, err := c.get(ctx, "/v1/acl/token/self"); err != nil {
			return err
		}
	}
	var roots struct{ ActiveRootID string }
	if err := c.decode(ctx, "/v1/agent/connect/ca/roots", &roots); err != nil {
		return err
	}
	if roots.ActiveRootID == "" {
		return errors.New("there is no active root yet")
	}
	var checks []struct{ Status string }
	if err := c.decode(ctx, "/v1/health/node/"+c.options.node, &checks); err != nil {
		return err
	}
	if len(checks) == 0 || checks[0].Status != "passing" {
		return errors.New("the node is not in the catalog yet")
	}
	// The leader enters the node; the agent adds what it knows of it later.
	var node struct {
		Node struct{ TaggedAddresses map[string]string }
	}
	if err := c.decode(ctx, "/v1/catalog/node/"+c.options.node, &node); err != nil {
		return err
	}
	if len(node.Node.TaggedAddresses) == 0 {
		return errors.New("the agent has not synced its node yet")
	}
	return nil
}

func (c *Consul) get(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, "http://"+c.Addr+path, "X-Consul-Token", c.Token)
}

func (c *Consul) decode(ctx context.Context, path string, into any) error {
	body, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode the answer of %s: %w", path, err)
	}
	return nil
}

// Stop kills the agent and returns when it is gone: connections are reset and
// new ones refused.
func (c *Consul) Stop() { c.kill() }

// Start starts a stopped agent at the same address and waits until it is
// ready. State comes back only with Persistent.
func (c *Consul) Start(t testing.TB) {
	t.Helper()
	c.kill()
	c.process = start(t, "consul", c.dir, c.path, c.args, nil)
	if err := c.until(t, c.ready); err != nil {
		t.Fatalf("start consul again: %v; its log:\n%s", err, c.Output())
	}
}

// Restart is Stop and Start.
func (c *Consul) Restart(t testing.TB) {
	t.Helper()
	c.Stop()
	c.Start(t)
}

// Env returns the variables that point Consul's clients to this agent.
func (c *Consul) Env() []string {
	env := []string{"CONSUL_HTTP_ADDR=" + c.Addr}
	if c.Token != "" {
		env = append(env, "CONSUL_HTTP_TOKEN="+c.Token)
	}
	return env
}

// Command runs one command of the consul program against this agent, as
// Command(t, "intention", "create", "-deny", "web", "api"), and returns its
// output. A command that fails, fails the test.
func (c *Consul) Command(t testing.TB, args ...string) string {
	t.Helper()
	return command(t, c.dir, c.path, c.Env(), args)
}

// A Proxy is one running builtin proxy of Consul.
type Proxy struct{ *process }

// Stop kills the proxy and returns when it is gone.
func (p *Proxy) Stop() { p.kill() }

// ConnectProxy runs Consul's own builtin proxy for a registered service and
// waits until it has loaded its configuration. It is killed when t ends.
func (c *Consul) ConnectProxy(t testing.TB, sidecarFor string) *Proxy {
	t.Helper()
	p := &Proxy{start(t, "proxy-"+sidecarFor, t.TempDir(), c.path, []string{"connect", "proxy", "-sidecar-for", sidecarFor}, c.Env())}
	err := p.until(t, func(context.Context) error {
		if !strings.Contains(p.Output(), "Proxy loaded config and ready to serve") {
			return errors.New("it has not loaded its configuration yet")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("start the builtin proxy for %q: %v; its log:\n%s", sidecarFor, err, p.Output())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the builtin proxy for %s:\n%s", sidecarFor, p.Output())
		}
	})
	return p
}

// command runs a program to its end and returns what it wrote.
func command(t testing.TB, dir, path string, env, args []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ready)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = dir, append([]string{"HOME=" + dir}, env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Run(); err != nil {
		t.Fatalf("run %s %s: %v: %s", path, strings.Join(args, " "), err, out.Bytes())
	}
	return out.String()
}

func port(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return port
}
