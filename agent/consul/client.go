// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

const (
	// blockFor is how long a query asks Consul to wait for news. It bounds how
	// long a watch can miss that a server was restored to an older state, and
	// how old "last success" of a healthy watch gets.
	blockFor = time.Minute
	// answerWithin bounds a query beyond the time it was asked to block.
	answerWithin = 30 * time.Second
)

// A Client talks to one Consul agent. It may be used from any goroutine.
type Client struct {
	cfg    Config
	base   base
	http   *http.Client
	api    *api.Client
	logger hclog.Logger
	pace   watch.Options // Name and Logger are filled in by users
	unused *turns        // of reads of what nobody has used yet
	from   source        // of the ACL token
	seat   *seat
}

// NewClient returns a client; it sends nothing yet. The error is about the
// configuration: the address, the TLS files, the token file, the policy.
func NewClient(cfg Config, logger hclog.Logger) (*Client, error) {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	logger = logger.Named("consul")
	b, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.DefaultIntentionPolicy != "" {
		if _, err := connect.ParseAction(cfg.DefaultIntentionPolicy); err != nil {
			return nil, fmt.Errorf("default intention policy: %w", err)
		}
	}
	seat := newSeat()
	httpClient, from, err := newHTTPClient(cfg, b, seat, logger)
	if err != nil {
		return nil, err
	}
	// The library would take what is left empty here from the environment;
	// the guard's token and our HTTP client come before all of that.
	writer, err := api.NewClient(&api.Config{
		Address:    b.host,
		Scheme:     b.scheme,
		PathPrefix: b.prefix,
		Datacenter: cfg.Datacenter,
		Namespace:  cfg.Namespace,
		Partition:  cfg.Partition,
		HttpClient: httpClient,
		Token:      noToken,
		HttpAuth:   basicAuth(cfg.HTTPAuth),
	})
	if err != nil {
		return nil, fmt.Errorf("consul client: %w", err)
	}
	return &Client{
		cfg: cfg, base: b, http: httpClient, api: writer, logger: logger, unused: newTurns(),
		from: from, seat: seat, pace: watch.Options{Sooner: seat.changed},
	}, nil
}

// Run keeps the ACL token good until ctx ends, then returns nil: it logs in
// where the configuration says so, before the token ends and when Consul does
// not know it any more, and logs out at the end; it looks for another token in
// a file whose token Consul does not know. It is called once, and before the
// first request of a client that logs in.
func (c *Client) Run(ctx context.Context) error {
	c.from.run(ctx)
	return nil
}

// TokenStatus tells how the source of the ACL token fares; it is empty when
// there is nothing to tell.
func (c *Client) TokenStatus() []TokenStatus { return c.from.status() }

func basicAuth(auth string) *api.HttpBasicAuth {
	if auth == "" {
		return nil
	}
	user, password, _ := strings.Cut(auth, ":")
	return &api.HttpBasicAuth{Username: user, Password: password}
}

// A request is one read of Consul's API.
type request struct {
	doing  string // for errors: `read intentions for "web"`
	path   string // unescaped
	params url.Values
	needs  string        // the ACL permission, for a 403
	wait   time.Duration // to ask Consul to wait for news; 0 means blockFor
}

// A meta is what the headers of an answer say.
type meta struct {
	index         uint64
	hash          string
	defaultPolicy string // X-Consul-Default-ACL-Policy
	filtered      bool   // X-Consul-Results-Filtered-By-ACLs
}

// get reads one answer into out, blocking after a cursor that is not zero.
// The error says what was read, why that failed and what to do.
func (c *Client) get(ctx context.Context, r request, after watch.Cursor, out any) (meta, error) {
	m, err := c.fetch(ctx, r, after, out)
	if err != nil {
		return meta{}, fmt.Errorf("%s: %w", r.doing, explain(err, r.needs, c.where()))
	}
	if m.filtered {
		c.logger.Warn("Consul left results out that the token may not read", "doing", r.doing, "needs", r.needs)
	}
	return m, nil
}

// getIfAny is get for what need not be there. found is false when Consul says
// that it is not, which can be waited on like any answer; an agent that does not
// know the question at all sends no index with its 404, which is an error.
func (c *Client) getIfAny(ctx context.Context, r request, after watch.Cursor, out any) (found bool, m meta, err error) {
	m, err = c.fetch(ctx, r, after, out)
	switch {
	case err == nil:
		return true, m, nil
	case status(err) == http.StatusNotFound && m.index != 0:
		return false, m, nil
	}
	return false, meta{}, fmt.Errorf("%s: %w", r.doing, explain(err, r.needs, c.where()))
}

// fetch returns what the headers say even with a status other than 200.
func (c *Client) fetch(ctx context.Context, r request, after watch.Cursor, out any) (meta, error) {
	params, limit := c.parameters(r, after)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.url(r.path, params).String(), nil)
	if err != nil {
		return meta{}, withoutURL(err)
	}
	if auth := basicAuth(c.cfg.HTTPAuth); auth != nil {
		req.SetBasicAuth(auth.Username, auth.Password)
	}
	response, err := c.http.Do(req)
	if err != nil {
		return meta{}, withoutURL(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		m, _ := readMeta(response.Header)
		return m, &statusError{code: response.StatusCode, body: string(body)}
	}
	if err != nil {
		return meta{}, fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return meta{}, fmt.Errorf("the answer is not the JSON that Consul sends: %w", err)
	}
	return readMeta(response.Header)
}

// parameters returns the query string of a request and how long it may take.
func (c *Client) parameters(r request, after watch.Cursor) (url.Values, time.Duration) {
	params := url.Values{}
	for name, value := range map[string]string{"dc": c.cfg.Datacenter, "ns": c.cfg.Namespace, "partition": c.cfg.Partition} {
		if value != "" {
			params.Set(name, value)
		}
	}
	maps.Copy(params, r.params)
	if after.Index == 0 && after.Hash == "" {
		return params, answerWithin
	}
	if after.Index != 0 {
		params.Set("index", strconv.FormatUint(after.Index, 10))
	} else {
		params.Set("hash", after.Hash)
	}
	wait := cmp.Or(r.wait, blockFor)
	if limit := c.seat.patience(); limit > 0 {
		wait = min(wait, limit)
	}
	params.Set("wait", wait.String())
	// Consul adds up to a sixteenth to what is asked for (Consul's HTTP API,
	// blocking queries).
	return params, wait + wait/16 + answerWithin
}

func readMeta(header http.Header) (meta, error) {
	m := meta{
		hash:          header.Get("X-Consul-ContentHash"),
		defaultPolicy: header.Get("X-Consul-Default-ACL-Policy"),
		filtered:      header.Get("X-Consul-Results-Filtered-By-ACLs") == "true",
	}
	if index := header.Get("X-Consul-Index"); index != "" {
		var err error
		if m.index, err = strconv.ParseUint(index, 10, 64); err != nil {
			return meta{}, fmt.Errorf("header X-Consul-Index: %w", err)
		}
	}
	return m, nil
}

// where names the agent, for errors.
func (c *Client) where() string { return c.base.where() }

// A statusError is an answer other than 200.
type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string {
	body := strings.TrimSpace(e.body)
	if body == "" {
		return fmt.Sprintf("Consul answered %d", e.code)
	}
	return fmt.Sprintf("Consul answered %d: %q", e.code, body)
}

// status returns the status code behind an error, or 0.
func status(err error) int {
	if own, ok := errors.AsType[*statusError](err); ok {
		return own.code
	}
	if foreign, ok := errors.AsType[api.StatusError](err); ok {
		return foreign.Code
	}
	return 0
}

// isUnknownToken reports whether the cause is that Consul does not know the
// token.
func isUnknownToken(err error) bool {
	if own, ok := errors.AsType[*statusError](err); ok {
		return unknownToken(own.code, own.body)
	}
	foreign, ok := errors.AsType[api.StatusError](err)
	return ok && unknownToken(foreign.Code, foreign.Body)
}

// explain adds to an error what a person can do about it.
func explain(err error, needs, where string) error {
	err = withoutURL(err)
	if own, ok := errors.AsType[*loginError](err); ok {
		return own // it says what to do
	}
	switch code := status(err); {
	case isUnknownToken(err):
		return fmt.Errorf("%w: the token was deleted, has expired, or is not one of this Consul: give another one", err)
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return fmt.Errorf("%w: the token may be missing, wrong or expired, or lacks the ACL permission %s", err, needs)
	case code == http.StatusTooManyRequests:
		return fmt.Errorf("%w: raise limits.http_max_conns_per_client or the rate limits of the agent at %s", err, where)
	case code >= http.StatusInternalServerError:
		return fmt.Errorf("%w: see the log of the agent at %s", err, where)
	case code != 0:
		return err
	case errors.Is(err, errBodyTooLarge), errors.Is(err, io.ErrUnexpectedEOF), isJSON(err):
		return fmt.Errorf("%w: check that %s is a Consul agent", err, where)
	}
	return fmt.Errorf("%w: check that the Consul agent at %s runs and may be reached", err, where)
}

func isJSON(err error) bool {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &kind)
}

// segment checks a name that becomes part of a path.
func segment(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if name == "." || name == ".." || strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s %q cannot be part of a path", what, name)
	}
	return nil
}
