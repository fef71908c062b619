// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"
)

// Limits of one exchange with Vault.
const (
	requestTimeout   = 10 * time.Second
	connectTimeout   = 5 * time.Second
	maxResponseBytes = 1 << 20
	maxHeaderBytes   = 64 << 10
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// newAPI returns two clients over one transport: one that is given the token of
// the process, and one that logs in and carries no token.
//
// The API package reads VAULT_* variables by itself; what could have come from
// there is set again. HTTP proxies of the environment are not used: a token is
// not sent through a third party that the configuration does not name.
func newAPI(cfg Config, dial dialFunc) (authed, login *api.Client, transport *http.Transport, err error) {
	if dial == nil {
		dial = (&net.Dialer{Timeout: connectTimeout}).DialContext
	}
	transport = &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTimeout,
		ResponseHeaderTimeout:  requestTimeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxConnsPerHost:        16,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
	}
	httpClient := &http.Client{
		Transport: transport,
		// The API package follows one redirect itself, never from https to http.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if authed, err = newAPIClient(cfg, httpClient); err != nil {
		return nil, nil, nil, err
	}
	if login, err = newAPIClient(cfg, httpClient); err != nil {
		return nil, nil, nil, err
	}
	httpClient.Transport = limited{transport}
	return authed, login, transport, nil
}

func newAPIClient(cfg Config, httpClient *http.Client) (*api.Client, error) {
	c := &api.Config{
		Address:    cfg.Address,
		HttpClient: httpClient,
		Timeout:    requestTimeout,
		// Retries are the business of the loops here, which know what they wait for.
		MaxRetries: 0,
	}
	err := c.ConfigureTLS(&api.TLSConfig{
		CACert:        cfg.TLS.CAFile,
		CAPath:        cfg.TLS.CAPath,
		ClientCert:    cfg.TLS.CertFile,
		ClientKey:     cfg.TLS.KeyFile,
		TLSServerName: cfg.TLS.ServerName,
	})
	if err != nil {
		return nil, fmt.Errorf("vault tls: %w: check ca_file, ca_path, cert_file and key_file", err)
	}
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("vault client: %w: a VAULT_* variable of the environment may be malformed", err)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	if cfg.Namespace != "" {
		client.SetNamespace(cfg.Namespace)
	}
	return client, nil
}

// limited bounds the body of every response.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxResponseBytes + 1}
	return resp, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64 // one more than may be read
}

var errTooLarge = errors.New("the response is larger than 1 MiB")

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left > 0 {
		n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		if b.left > 0 {
			return n, err
		}
	}
	return 0, errTooLarge
}
