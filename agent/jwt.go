// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"github.com/outrider-mesh/outrider/agent/assemble"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/jwks"
	"github.com/outrider-mesh/outrider/connect"
)

// setKeySources hands what Consul says of JWT providers to the keeper of their
// keys. It is the sink of every session that needs one; they all hear the same.
func (a *Agent) setKeySources(sources map[string]consul.JWTSource) {
	out := make(map[string]jwks.Source, len(sources))
	for name, s := range sources {
		out[name] = jwks.Source{Provider: s.Provider, Remote: remoteKeys(s.Remote), KeysFile: s.KeysFile}
	}
	a.keys.Set(out)
}

func remoteKeys(r *consul.RemoteKeys) *jwks.RemoteKeys {
	if r == nil {
		return nil
	}
	return &jwks.RemoteKeys{
		URI: r.URI, Timeout: r.Timeout, ConnectTimeout: r.ConnectTimeout, CacheFor: r.CacheFor,
		Retries: r.Retries, Backoff: r.Backoff, MaxBackoff: r.MaxBackoff,
		CAFile: r.CAFile, CAEnvironment: r.CAEnvironment, CA: r.CA,
	}
}

// needHTTP watches what only a service that speaks HTTP needs: its defaults, and
// the JWT providers that its intentions name, for which a token needs a
// permission that it needs for nothing else. change says what is new; it runs
// with the lock held that keeps calls from overlapping.
func (s *session) needHTTP(change func()) {
	s.http.Lock()
	defer s.http.Unlock()
	change()
	w := s.agent.watches
	var defaults map[consul.ServiceKey]func(consul.ServiceDefaults)
	var providers map[struct{}]func(map[string]consul.JWTSource)
	var names []string
	if s.speaksHTTP {
		defaults = map[consul.ServiceKey]func(consul.ServiceDefaults){consul.ServiceDefaultsKey(s.service): s.setDefaults}
		names = assemble.Providers(s.rules)
	}
	if len(names) > 0 {
		providers = map[struct{}]func(map[string]consul.JWTSource){{}: s.agent.setKeySources}
	}
	w.Defaults.Reconcile(s.owner, defaults)
	// The keeper first: it forgets sources that nobody wants.
	s.agent.keys.Want(s.owner, names, s.assembler.SetJWTProviders)
	w.JWTProviders.Reconcile(s.owner, providers)
}

func (s *session) setDefaults(d consul.ServiceDefaults) {
	for _, warning := range d.Warnings {
		s.log.Warn(warning)
	}
	s.assembler.SetDefaults(d.RateLimits, d.Faults)
}

// A JWTProviderStatus says whether tokens of one provider can be verified.
type JWTProviderStatus struct {
	Name    string
	Issuer  string `json:",omitempty"`
	Problem string `json:",omitempty"` // "" when they can be; otherwise they are refused
}

func jwtStatus(s *connect.Snapshot) []JWTProviderStatus {
	var out []JWTProviderStatus
	for _, name := range assemble.Providers(s.Intentions) {
		status := JWTProviderStatus{Name: name}
		p, known := s.JWTProviders[name]
		switch {
		case !s.Service.Protocol.Speaks():
			status.Problem = "the service does not speak HTTP, so that there are no tokens to verify: the intention denies"
		case !known:
			status.Problem = "it has not been read from Consul; the watch of JWT providers says why"
		default:
			status.Issuer, status.Problem = p.Issuer, p.Problem
		}
		out = append(out, status)
	}
	return out
}

// keySetStatus shows a key set beside the watches: both are what we hear from
// elsewhere.
func keySetStatus(s jwks.Status) WatchStatus {
	out := WatchStatus{Kind: "keys", Key: "key set " + s.Origin, LastSuccess: s.LastSuccess, Failures: s.Failures}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	return out
}
