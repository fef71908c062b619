// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

const (
	maxHeader = 64 << 10 // of an answer, in bytes
	maxCA     = 1 << 20  // of a CA file, in bytes
)

// A timeoutError is a try that took too long.
type timeoutError struct{ after time.Duration }

func (e *timeoutError) Error() string { return fmt.Sprintf("no full answer within %s", e.after) }

// String names the origin for people. A URI may carry a password or a token in
// its user part or query: neither is shown.
func (o origin) String() string {
	if o.file != "" {
		return o.file
	}
	u, err := url.Parse(o.uri)
	if err != nil {
		return "an unreadable URI"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// about wraps the error of a try with what was tried, and what to do.
func about(at origin, err error) error {
	if at.file != "" {
		return fmt.Errorf("read the key set in %s: %w; the jwt-provider config entry names this file", at, err)
	}
	return fmt.Errorf("fetch the key set from %s: %w; check the URI in the jwt-provider config entry and that this host may reach it", at, err)
}

// HTTP gets the body behind a URI with one GET, which ends with ctx. The URI
// comes from whoever writes config entries. So that it leads to no other place
// than it says, redirects are not followed, proxies of the environment are not
// used, and only http and https are spoken. TLS is at least 1.2 and checked
// against the system's roots or those that remote names. An answer other than
// 200, and a body of more than 1 MiB, is an error; no error shows the user part
// or the query of the URI.
func HTTP(ctx context.Context, remote RemoteKeys) ([]byte, error) {
	u, err := url.Parse(remote.URI)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, errors.New("the URI is not one of http or https")
	}
	roots, err := remote.roots()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: connectTimeout(remote)}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      true, // minutes pass between two tries
		DisableCompression:     true, // what is counted is what arrives
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("the URI makes no request")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	answer, err := client.Do(request)
	if err != nil {
		return nil, unwrapURL(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer has status %d, want 200", answer.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxKeys+1))
	if err != nil {
		return nil, fmt.Errorf("the answer breaks off: %w", err)
	}
	if len(body) > maxKeys {
		return nil, errTooBig
	}
	return body, nil
}

func connectTimeout(remote RemoteKeys) time.Duration {
	if remote.ConnectTimeout <= 0 {
		return defaultConnect
	}
	return remote.ConnectTimeout
}

// unwrapURL takes the URI out of an error of net/http.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// roots are what the server's certificate must chain to; nil is the system's.
func (r RemoteKeys) roots() (*x509.CertPool, error) {
	if r.CAFile+r.CAEnvironment+r.CA == "" {
		return nil, nil
	}
	bundle := []byte(r.CA)
	switch {
	case r.CAFile != "":
		var err error
		if bundle, err = readFile(r.CAFile, maxCA); err != nil {
			return nil, fmt.Errorf("read the CA file of the key set: %w", err)
		}
	case r.CAEnvironment != "":
		bundle = []byte(os.Getenv(r.CAEnvironment))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("the CA of the key set holds no certificate in PEM form")
	}
	return pool, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	// Opening a pipe would wait for somebody to write to it.
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return body, nil
}

// A fileState is how a file looked when it was last read.
type fileState struct {
	modified time.Time
	size     int64
	known    bool
}

// read returns the content of a file, or false when it looks as it did.
func (s *fileState) read(path string) (body []byte, changed bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, true, err
	}
	next := fileState{modified: info.ModTime(), size: info.Size(), known: true}
	if s.known && next.modified.Equal(s.modified) && next.size == s.size {
		return nil, false, nil
	}
	if body, err = readFile(path, maxKeys); err != nil {
		return nil, true, err
	}
	*s = next
	return body, true, nil
}
