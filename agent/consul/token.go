// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// maxToken bounds a token file; a token is a UUID or a JWT.
	maxToken = 64 << 10
	// lookAgain is how often the file of a token that Consul does not know is
	// looked at: a new one in its place is taken up that soon.
	lookAgain = 5 * time.Second
	// warnAgain is the least time between two warnings about one token.
	warnAgain = 10 * time.Minute
	// unknownFor is how long a token counts as unknown after Consul has said so:
	// requests that fail come more often.
	unknownFor = 2 * time.Minute
)

// A token is the ACL token that we were given, from a file that may be replaced
// at any time.
type token struct {
	value  string // when there is no file
	file   string
	logger hclog.Logger
	seat   *seat
	wake   chan struct{} // of capacity 1: run must look at the file

	mu      sync.Mutex
	read    string // the last good content of file
	size    int64
	changed time.Time
	failed  bool

	refused string    // the token that Consul does not know
	at      time.Time // when it said so last
	warned  time.Time
	reports int
}

func newToken(cfg Config, s *seat, logger hclog.Logger) *token {
	t := &token{value: cfg.Token, file: cfg.TokenFile, logger: logger, seat: s, wake: make(chan struct{}, 1)}
	// What is there already is no change to anybody; a file that is not there
	// yet is reported by the first request.
	_, _ = t.look()
	return t
}

// current returns the token for the next request. The file is read when its
// time or size changed. Once it was read, a file that is gone, empty or
// unreadable leaves the last good token in use: it may be in the middle of
// being replaced.
func (t *token) current(context.Context) (string, error) { return t.look() }

func (t *token) look() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == "" {
		t.seat.take(t.value, 0)
		return t.value, nil
	}
	err := t.reload()
	if err != nil && t.read == "" && t.value == "" {
		t.rouse()
		return "", fmt.Errorf("read the Consul token: %w: create the file or correct token_file", err)
	}
	if err != nil && !t.failed {
		t.logger.Warn("cannot read the Consul token file, keeping the token in use", "file", t.file, "error", err)
	}
	t.failed = err != nil
	value := t.inUse()
	t.seat.take(value, 0)
	if t.refused != "" && t.refused != value {
		t.refused, t.warned, t.reports = "", time.Time{}, 0
		t.logger.Info("there is another ACL token for Consul", "from", t.from())
	}
	return value, nil
}

// inUse needs the lock.
func (t *token) inUse() string {
	if t.read == "" {
		return t.value
	}
	return t.read
}

func (t *token) reload() error {
	info, err := os.Stat(t.file)
	if err != nil {
		return err
	}
	if t.read != "" && !t.failed && info.Size() == t.size && info.ModTime().Equal(t.changed) {
		return nil
	}
	value, err := readWord(t.file)
	if err != nil {
		return err
	}
	t.read, t.size, t.changed = value, info.Size(), info.ModTime()
	return nil
}

// readWord reads a token or a JWT from its file. Errors never quote it.
func readWord(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxToken {
		return "", fmt.Errorf("%s holds more than %d bytes, which is no token", path, maxToken)
	}
	value := strings.TrimSpace(string(content))
	if value == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	if !isWord(value) {
		return "", fmt.Errorf("%s holds more than one word, or bytes that no token has", path)
	}
	return value, nil
}

// isWord reports whether a text may stand in an HTTP header as a token.
func isWord(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

func (t *token) unknown(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if token == "" || token != t.inUse() {
		return
	}
	now := time.Now()
	t.refused, t.at = token, now
	t.reports++
	t.rouse()
	if !t.warned.IsZero() && now.Sub(t.warned) < warnAgain {
		return
	}
	t.warned = now
	t.logger.Warn("Consul does not know the ACL token any more, serving the last good state", "from", t.from(), "remedy", t.remedy(), "refusals", t.reports)
}

func (t *token) from() string {
	if t.file == "" {
		return "token"
	}
	return "token_file " + t.file
}

func (t *token) remedy() string {
	const login = "let the agent log in by itself with the login block of consul, for which a Nomad task has the JWT of an identity block with aud consul.io and file = true; or take MaxTokenTTL from the auth method that made the token"
	if t.file == "" {
		return "it was deleted or has expired: give another one and reload, or " + login
	}
	return "it was deleted or has expired: write another one into the file, or " + login
}

func (t *token) rouse() {
	select {
	case t.wake <- struct{}{}:
	default: // run will look anyway.
	}
}

// run looks at the file of a token that is no good until it holds another, so
// that nothing waits out the backoff of its last failure. While all is well it
// does nothing: each request looks by itself.
func (t *token) run(ctx context.Context) {
	if t.file == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		look := time.NewTicker(lookAgain)
		for t.troubled() {
			select {
			case <-ctx.Done():
				look.Stop()
				return
			case <-look.C:
			}
		}
		look.Stop()
	}
}

// troubled looks at the file, and reports whether there is still no good token.
func (t *token) troubled() bool {
	_, err := t.look()
	t.mu.Lock()
	defer t.mu.Unlock()
	return err != nil || t.refused != "" && time.Since(t.at) < unknownFor
}

var errUnknown = errors.New("the ACL token is not known to Consul any more")

func (t *token) status() []TokenStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused == "" || time.Since(t.at) >= unknownFor {
		return nil
	}
	return []TokenStatus{{Source: "ACL token from " + t.from(), Failures: t.reports, Err: fmt.Errorf("%w: %s", errUnknown, t.remedy())}}
}
