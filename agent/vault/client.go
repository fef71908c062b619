// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
)

// A Client holds one Vault token for the whole process: every [Leaf] signs with
// it. It is safe for use by several goroutines.
type Client struct {
	cfg       Config
	logger    hclog.Logger
	authed    *api.Client // carries the token
	login     *api.Client // carries none; used by Run alone
	transport *http.Transport
	random    func() float64
	shown     atomic.Pointer[tls.Certificate] // to Vault, by auth "cert"; nil before the first login

	refused chan refusal // tokens that Vault answered with 403

	mu         sync.Mutex
	generation uint64        // of the token; 0 before the first login
	changed    chan struct{} // closed with the next generation
	problem    error         // why the last login failed; nil when it did not
	hide       secrets
	token      TokenStatus
}

// A TokenStatus says how the Vault token fares. It never holds the token.
type TokenStatus struct {
	Source      string    // `Vault at https://vault:8200, auth "jwt"`
	LastSuccess time.Time // of a login or a renewal; zero: none yet
	Expires     time.Time // of the token in use; zero: never, or there is none
	Failures    int       // in a row
	Err         error     // of the last login or renewal; nil when it is fine
}

// NewClient checks the configuration and returns a client that has sent nothing
// yet; Run does the work. TLS files are read here, once. The logger is used as
// it is; nil is not allowed.
func NewClient(cfg Config, logger hclog.Logger) (*Client, error) {
	return newClient(cfg, logger, cfg.Dial)
}

func newClient(cfg Config, logger hclog.Logger, dial dialFunc) (*Client, error) {
	if cfg.Auth.Method == CertMethod && cfg.Auth.CertFile == "" && cfg.Auth.KeyFile == "" {
		cfg.Auth.CertFile, cfg.Auth.KeyFile = cfg.TLS.CertFile, cfg.TLS.KeyFile
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	authed, login, transport, err := newAPI(cfg, dial)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg:       cfg,
		logger:    logger,
		authed:    authed,
		login:     login,
		transport: transport,
		random:    rand.Float64,
		refused:   make(chan refusal, 1),
		changed:   make(chan struct{}),
		token:     TokenStatus{Source: fmt.Sprintf("Vault at %s, auth %q", cfg.Address, cfg.Auth.Method)},
	}
	if cfg.Auth.Method == CertMethod {
		c.showCertificate()
	}
	return c, nil
}

// showCertificate makes each connection show the certificate of the last login.
// None is kept for another request: one that was opened before the file was
// replaced would go on showing the old certificate, and Vault renews a token
// only for the certificate it was given for.
func (c *Client) showCertificate() {
	c.transport.DisableKeepAlives = true
	c.transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if shown := c.shown.Load(); shown != nil {
			return shown, nil
		}
		return &tls.Certificate{}, nil // none
	}
}

// Run logs in, renews the token before it ends, and logs in again when it
// cannot be renewed any more, when its maximum TTL is near, when Vault refused
// it, and when the content of a credential file has changed. Failures are
// retried for ever with growing delays; the token in hand is kept meanwhile.
// Run is called once. It returns nil when ctx has ended.
func (c *Client) Run(ctx context.Context) error {
	defer c.transport.CloseIdleConnections()
	k := &keeper{client: c, loginAt: time.Now()}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		k.step(ctx)
		timer := time.NewTimer(k.wait(time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-poll.C:
			k.poll(time.Now())
		case r := <-c.refused:
			k.refused(r, time.Now())
		}
		timer.Stop()
	}
}

// session returns which token is in use, 0 for none, a channel that is closed
// when another one is, and why the last login failed.
func (c *Client) session() (generation uint64, changed <-chan struct{}, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation, c.changed, c.problem
}

// A refusal is a 403 of Vault.
type refusal struct {
	generation uint64 // of the token
	gone       bool   // Vault does not know the token; else a policy may lack a path
}

// refuse tells Run that Vault answered a token with 403. It never blocks: one
// report is as good as many.
func (c *Client) refuse(r refusal) {
	select {
	case c.refused <- r:
	default:
	}
}

func (c *Client) adopt(token string, creds credentials) {
	c.authed.SetToken(token)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.problem = nil
	c.hide = append(creds.secrets(), token)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problem = err
}

// TokenStatus says how the token in use fares.
func (c *Client) TokenStatus() TokenStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

func (c *Client) report(change func(*TokenStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.token)
}

// secrets returns what must not be in an error. The slice is never written to.
func (c *Client) secrets() secrets {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hide
}
