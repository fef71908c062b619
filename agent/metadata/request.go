// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// A refused request got an answer, and not the one that was wanted. The body is
// dropped: it may be anything.
type refused struct{ status int }

func (r *refused) Error() string { return fmt.Sprintf("it answered with status %d", r.status) }

// errForeign is an answer that is not of the cloud that was asked.
var errForeign = errors.New("the answer is not of this cloud")

// transient reports whether the same request may succeed later: nothing
// answered, or the service is busy.
func transient(err error) bool {
	if r, ok := errors.AsType[*refused](err); ok {
		return r.status >= http.StatusInternalServerError || r.status == http.StatusTooManyRequests
	}
	return err != nil && !errors.Is(err, errForeign)
}

// A question is one request.
type question struct {
	method  string // "" means GET
	path    string
	query   url.Values
	header  map[string]string
	timeout time.Duration // 0 means tryTimeout
}

// ask sends one request and returns the header and body of a 200.
func (c *Client) ask(ctx context.Context, q question) (http.Header, string, error) {
	if q.timeout == 0 {
		q.timeout = tryTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	host, _, _ := strings.Cut(address, ":")
	u := url.URL{Scheme: "http", Host: host, Path: q.path, RawQuery: q.query.Encode()}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("make the request: %w", err)
	}
	for name, value := range q.header {
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if at, ok := errors.AsType[*url.Error](err); ok {
			err = at.Err // The URL says nothing that our own words do not.
		}
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, "", &refused{resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBytes+1))
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("read the answer: %w", err)
	case len(body) > maxBytes:
		return nil, "", fmt.Errorf("the answer is larger than %d bytes: %w", maxBytes, errForeign)
	}
	return resp.Header, string(body), nil
}

// Bounds of what is believed, in bytes.
const (
	maxValue = 128
	maxTag   = 256
	maxProof = 32 << 10
)

// check returns a value in the form in which it may enter a configuration.
// Whoever may write a tag is not always who may write the configuration, so no
// character is let through that means something in a template, a path or a log.
func check(name, value string) (string, error) {
	switch {
	case strings.HasSuffix(name, "_ip"):
		addr, err := netip.ParseAddr(value)
		if err != nil || addr.Zone() != "" {
			return "", errors.New("it is not an IP address")
		}
		return addr.String(), nil
	case strings.HasPrefix(name, "tags."):
		if len(value) > maxTag || strings.Trim(value, " ") != value || !within(value, " +-=._:/@") {
			return "", fmt.Errorf("the value of the tag has more than %d characters, or others than letters, digits, spaces and + - = . _ : / @", maxTag)
		}
		return value, nil
	case value == "" || len(value) > maxValue || !within(value, "-._:"):
		return "", errors.New("it is empty, too long or has strange characters")
	}
	return value, nil
}

// within reports whether a text has ASCII letters, digits and the given other
// characters only.
func within(text, others string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(others, r)
	})
}

// tagKey reports whether a text can be the key of a tag in a path.
func tagKey(key string) bool {
	return key != "" && len(key) <= maxValue && within(key, " +-=._:@") && !strings.HasPrefix(key, ".")
}

// isProof reports whether a text can be a token or key: printable and in one
// piece. It is not shown when it is none.
func isProof(text string) bool {
	return text != "" && len(text) <= maxProof && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// lastPart is what follows the last slash.
func lastPart(text string) string { return text[strings.LastIndexByte(text, '/')+1:] }
