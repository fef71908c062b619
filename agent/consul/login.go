// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
)

const (
	// loginWithin bounds one login or logout.
	loginWithin = 10 * time.Second
	// firstWithin is how long a request waits for the first token before it
	// fails with the reason why there is none.
	firstWithin = 10 * time.Second
	// maxGrant bounds the answer to a login.
	maxGrant = 256 << 10
)

// A login is a source of tokens: it exchanges a JWT for each of them.
type login struct {
	cfg      Login
	send     http.RoundTripper // carries no token
	in       string            // URL
	out      string
	where    string
	auth     string // user:password, for a proxy in front of Consul
	logger   hclog.Logger
	seat     *seat
	pace     watch.Options
	dead     chan string   // of capacity 1: a token that Consul does not know
	farewell time.Duration // bounds the logouts at the end

	mu          sync.Mutex
	ends        time.Time // of the token in use; zero: never
	lastSuccess time.Time
	failures    int
	problem     error // why the last login failed
}

func newLogin(cfg Config, b base, s *seat, next http.RoundTripper, logger hclog.Logger) (*login, error) {
	l := *cfg.Login
	if l.AuthMethod == "" || l.TokenFile == "" {
		return nil, errors.New("consul login needs an auth method and the file of a JWT: set auth_method and token_file")
	}
	l.Meta = maps.Clone(l.Meta)
	if l.Meta == nil {
		l.Meta = map[string]string{"client": "outrider"}
	}
	params := url.Values{}
	for name, value := range map[string]string{"dc": cfg.Datacenter, "ns": cfg.Namespace, "partition": cfg.Partition} {
		if value != "" {
			params.Set(name, value)
		}
	}
	return &login{
		cfg: l, send: next, logger: logger, seat: s, auth: cfg.HTTPAuth, where: b.where(),
		in: b.url("/v1/acl/login", params).String(), out: b.url("/v1/acl/logout", params).String(),
		pace: watch.Options{}.WithDefaults(), dead: make(chan string, 1), farewell: cmp.Or(cfg.Farewell, farewell),
	}, nil
}

// A loginError says why there is no token. What caused it is not to be found by
// unwrapping: the status of a login is not that of the request that waits for it.
type loginError struct{ text string }

func (e *loginError) Error() string { return e.text }

// current waits for the first token. Once it has come, the token in hand is
// returned until it ends, also while logins fail.
func (l *login) current(ctx context.Context) (string, error) {
	token, generation, next := l.seat.get()
	if generation == 0 {
		timer := time.NewTimer(firstWithin)
		defer timer.Stop()
		select {
		case <-next:
			token, generation, _ = l.seat.get()
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case generation == 0 && l.problem == nil:
		return "", &loginError{fmt.Sprintf("there is no ACL token yet: %s has not been answered", l.doing())}
	case generation == 0:
		return "", &loginError{"there is no ACL token yet: " + l.problem.Error()}
	case l.problem != nil && !l.ends.IsZero() && time.Now().After(l.ends):
		return "", &loginError{fmt.Sprintf("the ACL token ended at %s: %s", l.ends.UTC().Format(time.RFC3339), l.problem)}
	}
	return token, nil
}

func (l *login) unknown(token string) {
	select {
	case l.dead <- token:
	default: // One report is as good as many; who fails again reports again.
	}
}

func (l *login) status() []TokenStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []TokenStatus{{
		Source: fmt.Sprintf("login at auth method %q", l.cfg.AuthMethod), LastSuccess: l.lastSuccess,
		Expires: l.ends, Failures: l.failures, Err: l.problem,
	}}
}

func (l *login) doing() string {
	return fmt.Sprintf("log in to Consul at %s with auth method %q", l.where, l.cfg.AuthMethod)
}

// A grant is the token that a login gave.
type grant struct {
	token, accessor string
	life            time.Duration // 0: it does not end
}

// exchange makes one login. Its error holds nothing secret and says what to do.
func (l *login) exchange(ctx context.Context) (grant, error) {
	jwt, err := readWord(l.cfg.TokenFile)
	if err != nil {
		return grant{}, fmt.Errorf("%s: read the JWT: %w: correct token_file, or let the identity block write the file", l.doing(), err)
	}
	body, err := json.Marshal(map[string]any{"AuthMethod": l.cfg.AuthMethod, "BearerToken": jwt, "Meta": l.cfg.Meta})
	if err != nil {
		return grant{}, fmt.Errorf("%s: %w", l.doing(), err)
	}
	answer, err := l.post(ctx, l.in, "", body)
	if err == nil {
		var g grant
		if g, err = readGrant(answer, time.Now()); err == nil {
			return g, nil
		}
	}
	if refused, ok := errors.AsType[*statusError](err); ok {
		// Whatever answers there may repeat what it was sent.
		refused.body = strings.ReplaceAll(refused.body, jwt, "[hidden]")
	}
	return grant{}, fmt.Errorf("%s: %w: %s", l.doing(), err, l.remedy(err))
}

func readGrant(answer []byte, now time.Time) (grant, error) {
	var w struct {
		SecretID, AccessorID string
		CreateTime           time.Time
		ExpirationTime       *time.Time
	}
	if err := json.Unmarshal(answer, &w); err != nil {
		return grant{}, errors.New("the answer is not the JSON that Consul sends")
	}
	if w.SecretID == "" || len(w.SecretID) > maxToken || !isWord(w.SecretID) {
		return grant{}, errors.New("the answer holds no token")
	}
	g := grant{token: w.SecretID, accessor: w.AccessorID}
	if w.ExpirationTime == nil || w.ExpirationTime.IsZero() {
		return g, nil
	}
	// Both times are the server's, so its clock need not agree with ours.
	from := w.CreateTime
	if from.IsZero() {
		from = now
	}
	if g.life = w.ExpirationTime.Sub(from); g.life <= 0 {
		return grant{}, errors.New("the token that the login gave has ended already")
	}
	return g, nil
}

// remedy says what to do about a login that failed.
func (l *login) remedy(err error) string {
	code := status(err)
	refused, _ := errors.AsType[*statusError](err)
	switch {
	case code == 0:
		return fmt.Sprintf("check that the Consul agent at %s runs and may be reached", l.where)
	case code == http.StatusForbidden && strings.Contains(refused.body, "not found"):
		return fmt.Sprintf("create auth method %q, or correct auth_method", l.cfg.AuthMethod)
	case code == http.StatusForbidden:
		return fmt.Sprintf("give auth method %q a binding rule that matches the claims of the JWT in %s", l.cfg.AuthMethod, l.cfg.TokenFile)
	case code == http.StatusUnauthorized:
		return "enable ACLs in Consul, or remove the login"
	case code == http.StatusTooManyRequests:
		return "raise the rate limits of the agent"
	}
	return fmt.Sprintf("check the JWT in %s, whether it has expired, its audience and its issuer, against auth method %q and its keys", l.cfg.TokenFile, l.cfg.AuthMethod)
}

// post sends one request, with a token when it is not empty, and returns the
// body of an answer of 200.
func (l *login) post(ctx context.Context, to, token string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return nil, withoutURL(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	if auth := basicAuth(l.auth); auth != nil {
		req.SetBasicAuth(auth.Username, auth.Password)
	}
	// Without http.Client: it would follow redirects, and the JWT with them.
	response, err := l.send.RoundTrip(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxGrant+1))
	switch {
	case response.StatusCode != http.StatusOK:
		return nil, &statusError{code: response.StatusCode, body: string(answer[:min(len(answer), maxErrorBody)])}
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(answer) > maxGrant:
		return nil, errBodyTooLarge
	}
	return answer, nil
}
