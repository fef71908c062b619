// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package metadata asks the metadata service of a cloud what the machine is and
// for the proofs of its identity, on AWS, Google Cloud and Azure. It must not
// talk to anything but the one link-local address where that service is, nor
// trust what it is told: values are checked, and proofs never reach an error.
package metadata

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// address is the same in all three clouds. It is link-local (RFC 3927): what
// answers there is the hypervisor, not a host of the network. No name is looked
// up, so nobody can redirect the question through DNS.
const address = "169.254.169.254:80"

const (
	// bootPatience is how long New's client goes on asking by default.
	bootPatience = 30 * time.Second
	// tryTimeout bounds one request.
	tryTimeout = 2 * time.Second
	// proofTimeout bounds the request for a token, which the cloud makes anew.
	proofTimeout = 10 * time.Second
	firstPause   = 250 * time.Millisecond
	longestPause = 4 * time.Second
	// maxBytes bounds a response; the largest real one is Azure's description
	// of a machine with many tags.
	maxBytes       = 256 << 10
	maxHeaderBytes = 16 << 10
)

// A Client asks the metadata service. Nothing is asked before a method is
// called, and what does not change is asked for once. It is safe for use by
// several goroutines, which wait for each other.
type Client struct {
	patience time.Duration
	http     *http.Client

	mu     sync.Mutex
	until  time.Time // Value gives up then; zero before the first call
	cloud  cloud     // nil before it was found
	lost   error     // why no cloud was found; final
	values map[string]string
	token  string // of AWS's IMDSv2; "" before it was asked for
}

// A cloud is how one provider answers.
type cloud interface {
	// name is what metadata.cloud says.
	name() string
	// present reports whether this provider answers here. A transport error
	// says nothing about that; see asked.
	present(ctx context.Context) (bool, error)
	value(ctx context.Context, name string) (string, error)
}

// New returns a client whose Value asks for at most patience in all, counted
// from its first call, so that a machine whose network comes up late still gets
// an answer; 0 means 30 s.
func New(patience time.Duration) *Client {
	return newClient(patience, (&net.Dialer{Timeout: tryTimeout}).DialContext)
}

func newClient(patience time.Duration, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	if patience == 0 {
		patience = bootPatience
	}
	transport := &http.Transport{
		// The address is fixed here, whatever a URL says; a proxy of the
		// environment would see proofs of identity.
		Proxy:                  nil,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "tcp4", address) },
		DisableKeepAlives:      true, // A few requests in hours: a connection is not worth keeping.
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
	return &Client{
		patience: patience,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		values: make(map[string]string),
	}
}

// Value returns one value by its name in a configuration: cloud, account,
// instance_id, instance_type, region, zone, private_ip, public_ip, or tags. and
// the key of a tag. The value is checked: an IP address, or text of a small set
// of characters. The error says what was asked and what to do.
func (c *Client) Value(ctx context.Context, name string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, ok := c.values[name]; ok {
		return value, nil
	}
	if key, ok := strings.CutPrefix(name, "tags."); ok && !tagKey(key) {
		return "", fmt.Errorf("the key of the tag has more than %d characters, or others than letters, digits, spaces and + - = . _ : @", maxValue)
	}
	if c.until.IsZero() {
		c.until = time.Now().Add(c.patience)
	}
	if err := c.find(ctx, c.until); err != nil {
		return "", err
	}
	value, err := c.read(ctx, name)
	if err != nil {
		return "", err
	}
	if value, err = check(name, value); err != nil {
		return "", fmt.Errorf("%s answered something else than %s: %w", c.cloud.name(), name, err)
	}
	c.values[name] = value
	return value, nil
}

func (c *Client) read(ctx context.Context, name string) (string, error) {
	if name == "cloud" {
		return c.cloud.name(), nil
	}
	var value string
	err := c.again(ctx, c.until, func(ctx context.Context) (err error) {
		value, err = c.cloud.value(ctx, name)
		return err
	})
	if r, ok := errors.AsType[*refused](err); ok {
		return "", fmt.Errorf("%s says nothing of %s for this machine (status %d): %s", c.cloud.name(), name, r.status, remedy(c.cloud.name(), name, r.status))
	}
	if err != nil {
		return "", fmt.Errorf("ask %s for %s: %w", c.cloud.name(), name, err)
	}
	return value, nil
}

func remedy(cloud, name string, status int) string {
	_, tag := strings.CutPrefix(name, "tags.")
	switch {
	case status == http.StatusForbidden:
		return "the metadata service is turned off for it, or for this user"
	case tag && cloud == awsName:
		return "give the machine the tag, and allow tags in its instance metadata"
	case tag && cloud == gcpName:
		return "give the machine custom metadata with this key"
	case tag:
		return "give the machine the tag"
	case name == "public_ip":
		return "give it a public address, or take private_ip"
	case name == "zone":
		return "it is in no availability zone; take region"
	}
	return "write the value itself, or env(\"NAME\")"
}

// find finds out in which cloud this is, once.
func (c *Client) find(ctx context.Context, until time.Time) error {
	if c.cloud != nil || c.lost != nil {
		return c.lost
	}
	found := errors.New("it was not asked")
	err := c.again(ctx, until, func(ctx context.Context) error {
		for _, candidate := range []cloud{aws{c}, gcp{c}, azure{c}} {
			present, err := candidate.present(ctx)
			if present {
				c.cloud = candidate
				return nil
			}
			if found = err; transient(err) {
				return err
			}
		}
		return nil
	})
	host, _, _ := net.SplitHostPort(address)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("ask the metadata service at %s: %w", host, ctx.Err())
	case err != nil:
		c.lost = fmt.Errorf("no metadata service answers at %s: %w: is this machine in AWS, Google Cloud or Azure, and may this user reach that address? Else write the value itself, or env(\"NAME\")", host, err)
	case c.cloud == nil:
		c.lost = fmt.Errorf("what answers at %s is the metadata service of neither AWS (with IMDSv2), Google Cloud nor Azure: %w: write the value itself, or env(\"NAME\")", host, found)
	}
	return c.lost
}

// again calls f until it succeeds, refuses for good, or time is up.
func (c *Client) again(ctx context.Context, until time.Time, f func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := f(ctx)
		left := time.Until(until)
		if err == nil || !transient(err) || left <= 0 || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(min(pause, left))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}
