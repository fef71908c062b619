// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// A Leaf keeps the certificate of one service fresh, from the CA behind Consul:
// the agent makes the key and renews the certificate, we wait for news.
type Leaf struct {
	service connect.Service
	publish func(*connect.Leaf)
	logger  hclog.Logger
	private bool
	where   string
	watch   *watch.Set[struct{}, issued]
	wake    chan struct{} // of capacity 1: bundle or current changed

	mu      sync.Mutex // guards what follows
	bundle  *connect.TrustBundle
	current issued // the last that was fetched, believed or not
}

// An issued certificate is what Consul handed out: leaf first.
type issued struct {
	chain []*x509.Certificate
	key   crypto.Signer
}

type wireLeaf struct {
	CertPEM       string
	PrivateKeyPEM string
}

// NewLeaf returns the leaf of a service. publish is called from Run's
// goroutine, with a leaf that holds against the bundle of that moment. Only
// Name, Namespace, Partition and Datacenter of the service are looked at.
func (c *Client) NewLeaf(service connect.Service, publish func(*connect.Leaf), logger hclog.Logger) *Leaf {
	l := &Leaf{
		service: service,
		publish: publish,
		logger:  orNull(logger).Named("leaf").With("service", service.Name),
		private: c.base.private(),
		where:   c.where(),
		wake:    make(chan struct{}, 1),
	}
	opts := c.pace
	opts.Logger = l.logger
	l.watch = watch.NewSet("leaf of "+service.Name, func(struct{}) watch.Fetch[issued] { return c.fetchLeaf(service) }, equalIssued, opts)
	return l
}

// SetBundle tells the roots that the leaf must hold against. It returns at
// once and may be called from any goroutine; nothing is fetched before the
// first call. A nil bundle is ignored.
func (l *Leaf) SetBundle(b *connect.TrustBundle) {
	if b == nil {
		return
	}
	l.mu.Lock()
	l.bundle = b
	l.mu.Unlock()
	l.signal()
}

func (l *Leaf) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // Run will look anyway.
	}
}

// Status tells how fetching the leaf fares.
func (l *Leaf) Status() []watch.Status { return l.watch.Status() }

// Run fetches and publishes until ctx ends, then returns nil. A leaf that the
// bundle does not bear out is logged and never published; the one published
// before it stays.
func (l *Leaf) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-l.wake: // the first bundle
	}
	if !l.private {
		l.logger.Warn("the private key of the leaf travels unencrypted: use https, a unix socket or the agent of this host", "consul", l.where)
	}
	l.watch.Reconcile("leaf", map[struct{}]func(issued){{}: func(i issued) {
		l.mu.Lock()
		l.current = i
		l.mu.Unlock()
		l.signal()
	}})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.watch.Run(ctx) })
	group.Go(func() error { l.follow(ctx); return nil })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("keep the leaf of %q fresh: %w", l.service.Name, err)
	}
	return nil
}

// follow publishes at each change until ctx ends.
func (l *Leaf) follow(ctx context.Context) {
	var published *connect.Leaf
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		l.mu.Lock()
		bundle, current := l.bundle, l.current
		l.mu.Unlock()
		if current.key == nil {
			continue
		}
		leaf, err := l.compose(bundle, current)
		if err != nil {
			l.logger.Error("the leaf is refused, the one before it stays in use", "error", err)
			continue
		}
		if published != nil && slices.EqualFunc(published.Chain, leaf.Chain, (*x509.Certificate).Equal) {
			continue
		}
		published = leaf
		l.logger.Info("leaf in use", "identity", leaf.Identity, "not_after", leaf.NotAfter().UTC().Format(time.RFC3339), "presented", len(leaf.Chain))
		l.publish(leaf)
	}
}

// compose makes what we present of what was issued, and checks it.
func (l *Leaf) compose(bundle *connect.TrustBundle, i issued) (*connect.Leaf, error) {
	leaf, err := connect.NewLeaf(connect.PresentedChain(i.chain[0], i.chain[1:], bundle.Active()), i.key, "Consul's CA")
	if err != nil {
		return nil, err
	}
	if err := leaf.Check(bundle, l.service.Identity(bundle.TrustDomain), time.Now()); err != nil {
		return nil, err
	}
	return leaf, nil
}

func (c *Client) fetchLeaf(service connect.Service) watch.Fetch[issued] {
	r := request{
		doing:  fmt.Sprintf("fetch the leaf of %q", service.Name),
		path:   "/v1/agent/connect/ca/leaf/" + service.Name,
		params: tenancy(service.Namespace, service.Partition),
		needs:  fmt.Sprintf("service:write on %q", service.Name),
	}
	return func(ctx context.Context, after watch.Cursor) (issued, watch.Cursor, error) {
		if err := segment("service name", service.Name); err != nil {
			return issued{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		var w wireLeaf
		m, err := c.get(ctx, r, after, &w)
		if err != nil {
			return issued{}, watch.Cursor{}, err
		}
		i, err := convertLeaf(w)
		if err != nil {
			return issued{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		return i, watch.Cursor{Index: m.index}, nil
	}
}

// convertLeaf parses the certificates and the key. Its errors never quote the
// key.
func convertLeaf(w wireLeaf) (issued, error) {
	chain, err := connect.ParseCertificates([]byte(w.CertPEM))
	if err != nil {
		return issued{}, fmt.Errorf("certificate: %w", err)
	}
	key, err := parseKey([]byte(w.PrivateKeyPEM))
	if err != nil {
		return issued{}, fmt.Errorf("private key: %w", err)
	}
	return issued{chain: chain, key: key}, nil
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no PEM block")
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, errors.New("the PEM block is not of a type known for private keys")
	}
	if err != nil {
		return nil, fmt.Errorf("its encoding is broken: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("it cannot sign")
	}
	return signer, nil
}

func equalIssued(a, b issued) bool {
	public, ok := a.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b.key.Public()) && slices.EqualFunc(a.chain, b.chain, (*x509.Certificate).Equal)
}
