// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

const (
	// maxBody bounds an answer: a discovery chain or an endpoint list of more
	// is not one.
	maxBody = 32 << 20
	// maxErrorBody bounds what is kept of an answer that is not 200: it ends
	// up in logs.
	maxErrorBody = 512
	// noToken keeps Consul's client library from taking a token out of the
	// environment; it is never sent.
	noToken = "the token of the configuration"
	// maxToken bounds a token file; a token is a UUID or a JWT.
	maxToken = 64 << 10
)

var errBodyTooLarge = errors.New("the answer is larger than a Consul agent's can be")

// newHTTPClient returns a client for one Consul agent. It never follows a
// redirect: the token would follow too.
func newHTTPClient(cfg Config, b base, logger hclog.Logger) (*http.Client, error) {
	// Consul's client library is asked for the transport it would use itself,
	// so that proxies and TLS files mean the same as everywhere with Consul.
	transport := api.DefaultConfig().Transport
	transport.MaxIdleConnsPerHost = 64
	tls, err := api.SetupTLSConfig(&api.TLSConfig{
		Address:            cfg.TLS.ServerName,
		CAFile:             cfg.TLS.CAFile,
		CAPath:             cfg.TLS.CAPath,
		CertFile:           cfg.TLS.CertFile,
		KeyFile:            cfg.TLS.KeyFile,
		InsecureSkipVerify: cfg.TLS.InsecureSkipVerify,
	})
	if err != nil {
		return nil, fmt.Errorf("consul TLS settings: %w", err)
	}
	transport.TLSClientConfig = tls
	if cfg.Dial != nil {
		transport.Proxy = nil // it is reached from where the process is
		transport.DialContext = cfg.Dial
	}
	if b.socket != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", b.socket)
		}
	}
	return &http.Client{
		Transport:     &guard{next: transport, token: &token{value: cfg.Token, file: cfg.TokenFile, logger: logger}, limit: maxBody},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// A guard puts the current token on each request and bounds each answer.
type guard struct {
	next  http.RoundTripper
	token *token
	limit int64
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	// A request may carry a token of its own, that of one service.
	if own := request.Header.Get("X-Consul-Token"); own == "" || own == noToken {
		token, err := g.token.current()
		if err != nil {
			return nil, err
		}
		request.Header.Del("X-Consul-Token")
		if token != "" {
			request.Header.Set("X-Consul-Token", token)
		}
	}
	response, err := g.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		response.Body = &bounded{ReadCloser: response.Body, left: g.limit}
	} else {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxErrorBody), response.Body}
	}
	return response, nil
}

// CloseIdleConnections lets http.Client reach the transport behind the guard.
func (g *guard) CloseIdleConnections() {
	if c, ok := g.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// bounded fails, rather than ends, when a body is longer than allowed: a cut
// answer must not be taken for a whole one.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errBodyTooLarge
	}
	// One byte more than is left tells an answer of just that size from a
	// larger one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, errBodyTooLarge
	}
	return n, err
}

// A token is the ACL token, from a file that may be replaced at any time.
type token struct {
	value  string // when there is no file
	file   string
	logger hclog.Logger

	mu      sync.Mutex
	read    string // the last good content of file
	size    int64
	changed time.Time
	failed  bool
}

// current returns the token for the next request. The file is read when its
// time or size changed. Once it was read, a file that is gone, empty or
// unreadable leaves the last good token in use: it may be in the middle of
// being replaced.
func (t *token) current() (string, error) {
	if t.file == "" {
		return t.value, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.reload()
	if err != nil && t.read == "" && t.value == "" {
		return "", fmt.Errorf("read the Consul token: %w: create the file or correct token_file", err)
	}
	if err != nil && !t.failed {
		t.logger.Warn("cannot read the Consul token file, keeping the token in use", "file", t.file, "error", err)
	}
	t.failed = err != nil
	if t.read == "" {
		return t.value, nil
	}
	return t.read, nil
}

func (t *token) reload() error {
	info, err := os.Stat(t.file)
	if err != nil {
		return err
	}
	if t.read != "" && !t.failed && info.Size() == t.size && info.ModTime().Equal(t.changed) {
		return nil
	}
	if info.Size() > maxToken {
		return fmt.Errorf("%s holds %d bytes, which is no token", t.file, info.Size())
	}
	content, err := os.ReadFile(t.file)
	if err != nil {
		return err
	}
	value := strings.TrimSpace(string(content))
	if value == "" {
		return fmt.Errorf("%s is empty", t.file)
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%s holds more than one word, or bytes that no token has", t.file)
	}
	t.read, t.size, t.changed = value, info.Size(), info.ModTime()
	return nil
}
