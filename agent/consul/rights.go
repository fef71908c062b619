// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
)

// A Right is a permission of an ACL token (Consul documentation, ACL rules).
type Right struct {
	Resource string // service, node, intention, agent …
	Access   string // read or write
	Name     string // of the service, node …
}

// maxRights is how many Consul answers at once.
const maxRights = 64

// Rights asks which of the rights a token gives: that of the configuration, or
// another one unless it is "". The result has the order of the question. Consul is
// asked as its own user interface asks, with a POST that changes nothing. The error
// says what was asked, why that failed and what to do.
func (c *Client) Rights(ctx context.Context, token string, wants []Right) ([]bool, error) {
	var out []bool
	for some := range slices.Chunk(wants, maxRights) {
		answers, err := c.someRights(ctx, token, some)
		if err != nil {
			return nil, err
		}
		out = append(out, answers...)
	}
	return out, nil
}

func (c *Client) someRights(ctx context.Context, token string, wants []Right) ([]bool, error) {
	const doing = "ask Consul what the token may do"
	ask := []wireRight{}
	for _, r := range wants {
		ask = append(ask, wireRight{Resource: r.Resource, Access: r.Access, Segment: r.Name})
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	params := url.Values{}
	if c.cfg.Datacenter != "" {
		params.Set("dc", c.cfg.Datacenter)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.url("/v1/internal/acl/authorize", params).String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, withoutURL(err))
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	response, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, explain(err, "none", c.where()))
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body) // bounded by the transport
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", doing, explain(&statusError{code: response.StatusCode, body: string(text)}, "none", c.where()))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: read the answer: %w", doing, err)
	}
	return allowed(doing, ask, text)
}

// A wireRight is a question, and with Allow its answer.
type wireRight struct {
	Resource, Access, Segment string
	Allow                     bool `json:",omitempty"`
}

// allowed reads an answer. One that does not repeat the question is none.
func allowed(doing string, ask []wireRight, text []byte) ([]bool, error) {
	var answers []wireRight
	if err := json.Unmarshal(text, &answers); err != nil {
		return nil, fmt.Errorf("%s: the answer is not the JSON that Consul sends: %w", doing, err)
	}
	if len(answers) != len(ask) {
		return nil, fmt.Errorf("%s: Consul gave %d answers to %d questions", doing, len(answers), len(ask))
	}
	out := make([]bool, len(ask))
	for i, a := range answers {
		out[i] = a.Allow
		if a.Allow = false; a != ask[i] {
			return nil, fmt.Errorf("%s: the answer is to another question", doing)
		}
	}
	return out, nil
}
