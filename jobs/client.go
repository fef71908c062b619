// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/nomad/api"
)

const (
	requestTimeout = 30 * time.Second

	// maxJob bounds what is read as a job or as the answer of a parse. Nomad's
	// own limit for a job's source is 1 MB.
	maxJob = 16 << 20
)

// A Client talks to one Nomad agent. It is safe for concurrent use.
type Client struct {
	api *api.Client
}

// NewClient returns a client for the agent that the environment names with the
// variables of Nomad's command line: NOMAD_ADDR (http://127.0.0.1:4646 when
// unset), NOMAD_TOKEN, NOMAD_NAMESPACE, NOMAD_REGION, NOMAD_CACERT and the other
// TLS variables. It connects to nothing.
func NewClient() (*Client, error) {
	c, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return nil, fmt.Errorf("set up the Nomad client from the NOMAD_ variables: %w", err)
	}
	return &Client{api: c}, nil
}

// Address returns the address of the agent.
func (c *Client) Address() string { return c.api.Address() }

// query reads path into out, within the time of one request.
func (c *Client) query(ctx context.Context, path string, out any) error {
	return c.queryIn(ctx, scope{}, path, out)
}

// A scope is where a job lives; what is empty is that of the environment.
type scope struct{ region, namespace string }

func (c *Client) queryIn(ctx context.Context, s scope, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	o := &api.QueryOptions{Region: s.region, Namespace: s.namespace}
	if _, err := c.api.Raw().Query(path, out, o.WithContext(ctx)); err != nil {
		return c.explain(err)
	}
	return nil
}

// write puts in to path and reads the answer into out.
func (c *Client) write(ctx context.Context, path string, in, out any) error {
	return c.writeIn(ctx, scope{}, path, in, out)
}

func (c *Client) writeIn(ctx context.Context, s scope, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	o := &api.WriteOptions{Region: s.region, Namespace: s.namespace}
	if _, err := c.api.Raw().Write(path, in, out, o.WithContext(ctx)); err != nil {
		return c.explain(err)
	}
	return nil
}

// explain says in a sentence why Nomad did not do what it was asked, with the
// remedy when there is one. Only Nomad's words are kept of an answer.
func (c *Client) explain(err error) error {
	var answer api.UnexpectedResponseError
	switch {
	case errors.As(err, &answer) && answer.HasStatusCode():
		said := clean(strings.TrimSpace(answer.Body()))
		if answer.StatusCode() == http.StatusForbidden {
			return &answerError{answer.StatusCode(), cmp.Or(said, "Permission denied") + "; set NOMAD_TOKEN to a token that may do this in the job's namespace", err}
		}
		return &answerError{answer.StatusCode(), cmp.Or(said, answer.StatusText()), err}
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the Nomad agent at %s did not answer in time: %w", c.Address(), err)
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err // without the address, which comes once
	}
	return fmt.Errorf("reach the Nomad agent at %s: %w; is it running there? NOMAD_ADDR names another", c.Address(), err)
}

// An answerError is a refusal of Nomad in its words.
type answerError struct {
	status int
	words  string
	cause  error
}

func (e *answerError) Error() string { return "Nomad answered: " + e.words }
func (e *answerError) Unwrap() error { return e.cause }

// Parse has Nomad parse the HCL text of a job. variables is the text of a file of
// variables, "" for none. Defaults are not filled in. An error says what Nomad
// refused.
func (c *Client) Parse(ctx context.Context, source []byte, variables string) (Document, error) {
	var raw json.RawMessage
	request := api.JobsParseRequest{JobHCL: string(source), Variables: variables}
	err := c.write(ctx, "/v1/jobs/parse", &request, &raw)
	switch {
	case err != nil && strings.Contains(err.Error(), "filesystem function disabled"):
		return Document{}, fmt.Errorf("parse the job: %w: the agent reads no files for others; make JSON of the job where the files are, with \"nomad job run -output FILE\", and give that", err)
	case err != nil && strings.Contains(err.Error(), "Unset variable"):
		return Document{}, fmt.Errorf("parse the job: %w; -var and -var-file give values", err)
	case err != nil:
		return Document{}, fmt.Errorf("parse the job: %w", err)
	}
	return ReadJSON(raw)
}

// clean makes a text of somebody else fit for a terminal: one line, without
// control characters and not endless.
func clean(text string) string {
	const longest = 2000
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, text)
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}
