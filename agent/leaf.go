// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"

	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/connect"
)

// leafSource gets and renews the leaf of one service; Vault and Consul are the
// two there are.
type leafSource interface {
	SetBundle(*connect.TrustBundle)
	Run(context.Context) error
}

// keepLeaf runs the leaf source as soon as the registration says whose leaf it
// is to be.
func (s *session) keepLeaf(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.registered:
	}
	source := s.newLeafSource()
	s.bundling.Lock()
	s.leaf.Store(&source)
	if s.bundle != nil {
		source.SetBundle(s.bundle)
	}
	s.bundling.Unlock()
	return source.Run(ctx)
}

func (s *session) newLeafSource() leafSource {
	if s.agent.vault == nil {
		return s.agent.consul.NewLeaf(s.service, s.assembler.SetLeaf, s.log)
	}
	cfg := s.agent.opts.Config.Vault.PKI
	pki := vault.PKI{Mount: cfg.MountFor(s.service.Name), Role: cfg.RoleFor(s.service.Name), TTL: cfg.TTL}
	want := func(b *connect.TrustBundle) connect.Identity { return s.service.Identity(b.TrustDomain) }
	return s.agent.vault.NewLeaf(pki, want, s.assembler.SetLeaf, s.log)
}
