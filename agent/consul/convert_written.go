// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// writtenHead is what every config entry may have.
type writtenHead struct {
	Kind, Name, Namespace, Partition string
	Meta                             map[string]string
	CreateIndex, ModifyIndex, Hash   any
}

type writtenIntentions struct {
	writtenHead
	JWT     *wireJWT
	Sources []writtenSource
}

type writtenSource struct {
	Name, Namespace, Partition, Peer, SamenessGroup string
	Action                                          string
	Permissions                                     []wirePermission
	Type, Description                               string
	// Of no meaning to who may call.
	Precedence, LegacyID, LegacyMeta, LegacyCreateTime, LegacyUpdateTime any
}

type writtenDefaults struct {
	writtenHead
	Protocol string
	// Of no meaning to who may call.
	Mode, TransparentProxy, MutualTLSMode, MeshGateway, Expose, ExternalSNI, UpstreamConfig, Destination any
	MaxInboundConnections, LocalConnectTimeoutMs, LocalRequestTimeoutMs, BalanceInboundConnections       any
	RateLimits, EnvoyExtensions                                                                          any
}

type writtenProxyDefaults struct {
	writtenHead
	Config map[string]any
	// Of no meaning to who may call.
	Mode, TransparentProxy, MutualTLSMode, MeshGateway, Expose any
	AccessLogs, EnvoyExtensions, FailoverPolicy                any
	PrioritizeByLocality                                       any
}

type writtenMesh struct {
	writtenHead
	HTTP *struct {
		SanitizeXForwardedClientCert bool
		Incoming                     *struct{ RequestNormalization *wireNormalization }
	}
	// Of no meaning to who may call.
	TransparentProxy, AllowEnablingPermissiveMutualTLS, ValidateClusters, TLS, Peering any
}

type writtenProvider struct {
	writtenHead
	// Of these, [wireJWTProvider] has all that matters.
	JSONWebKeySet, Issuer, Audiences, Locations, Forwarding, ClockSkewSeconds, CacheConfig any
}

// check refuses what another namespace or partition has: Consul Community
// Edition knows the default ones only.
func (h writtenHead) check() error {
	switch {
	case orDefault(h.Namespace) != connect.DefaultName || !strings.EqualFold(orDefault(h.Partition), connect.DefaultName):
		return fmt.Errorf("it is of namespace %q and partition %q: only the default ones are evaluated", orDefault(h.Namespace), orDefault(h.Partition))
	case h.Name == "" && h.Kind != "mesh":
		return errors.New("it has no Name")
	}
	return nil
}

// intentions are the entry's as Consul would answer with them, with the checks
// that Consul makes when it is written (Consul, service-intentions).
func (w writtenIntentions) intentions() ([]wireIntention, error) {
	if len(w.Sources) == 0 {
		return nil, errors.New("it has no Sources, of which Consul wants at least one")
	}
	if err := checkWildcard("Name", w.Name); err != nil {
		return nil, err
	}
	token, err := json.Marshal(w.JWT)
	if err != nil {
		return nil, fmt.Errorf("JWT: %w", err)
	}
	var list []wireIntention
	seen := map[connect.Source]bool{}
	for i, s := range w.Sources {
		one, err := s.intention(w.Name)
		if err != nil {
			return nil, fmt.Errorf("source %d, %q: %w", i+1, s.Name, err)
		}
		key := connect.Source{Peer: s.Peer, Partition: one.SourcePartition, Namespace: one.SourceNS, Name: s.Name}
		if seen[key] {
			return nil, fmt.Errorf("source %d: %q is there twice", i+1, s.Name)
		}
		seen[key] = true
		one.JWT = token
		list = append(list, one)
	}
	return list, nil
}

func (s writtenSource) intention(destination string) (wireIntention, error) {
	out := wireIntention{
		SourcePeer: s.Peer, SourcePartition: strings.ToLower(orDefault(s.Partition)), SourceNS: orDefault(s.Namespace), SourceName: s.Name,
		SourceSamenessGroup: s.SamenessGroup, SourceType: s.Type, DestinationNS: connect.DefaultName, DestinationName: destination,
		Action: strings.ToLower(s.Action), Precedence: precedence(s, destination),
	}
	if err := checkWildcard("Name", s.Name); err != nil {
		return out, err
	}
	if destination == connect.Wildcard && len(s.Permissions) > 0 {
		return out, errors.New("it has Permissions, which Consul does not take for the destination \"*\": use Action")
	}
	for i, p := range s.Permissions {
		text, err := json.Marshal(p)
		if err != nil {
			return out, fmt.Errorf("permission %d: %w", i+1, err)
		}
		out.Permissions = append(out.Permissions, text)
	}
	return out, nil
}

// precedence is Consul's: an exact destination before any, then an exact source
// before any (Consul, service intentions: precedence and match order).
func precedence(s writtenSource, destination string) int {
	p := 9
	if destination == connect.Wildcard {
		p = 6
	}
	switch {
	case s.Namespace == connect.Wildcard:
		p -= 2
	case s.Name == connect.Wildcard:
		p--
	}
	return p
}

func checkWildcard(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case name != connect.Wildcard && strings.Contains(name, connect.Wildcard):
		return fmt.Errorf("%s %q: \"*\" stands for all names, and not for a part of one", what, name)
	}
	return nil
}

func (w writtenMesh) normalization() (connect.Normalization, error) {
	if w.HTTP == nil || w.HTTP.Incoming == nil || w.HTTP.Incoming.RequestNormalization == nil {
		return connect.Normalization{}, nil
	}
	text, err := json.Marshal(w.HTTP.Incoming.RequestNormalization)
	if err != nil {
		return connect.Normalization{}, err
	}
	return convertNormalization(text)
}

func (w writtenProxyDefaults) protocol() string {
	for key, value := range w.Config {
		if text, ok := value.(string); ok && plain(key) == "protocol" {
			return strings.ToLower(text)
		}
	}
	return ""
}
