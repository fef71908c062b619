// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/agent/metadata"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/hcl"
)

// reloadPatience is how long a reload asks for metadata in all: the network is
// up, and the running configuration is good meanwhile.
const reloadPatience = 5 * time.Second

// A Loader reads the configuration of the agent on the machine that runs it:
// what only this machine knows is filled in.
type Loader struct {
	paths  []string
	before atomic.Bool
}

// NewLoader returns a loader of files and directories; see [hcl.Load].
func NewLoader(paths ...string) *Loader { return &Loader{paths: paths} }

// Load reads the configuration as it is now. The first time it waits up to 30 s
// for the cloud's metadata, for the network of a booting machine may come up
// late, later times up to 5 s; where no metadata is named it waits for nothing.
// Errors are those of [hcl.Load].
func (l *Loader) Load(ctx context.Context) (*hcl.Config, error) {
	patience := time.Duration(0)
	if l.before.Swap(true) {
		patience = reloadPatience
	}
	cloud := metadata.New(patience)
	return hcl.Options{Metadata: func(name string) (string, error) { return cloud.Value(ctx, name) }}.Load(l.paths...)
}

// A machine proves to Vault what it is by the metadata service of its cloud.
type machine struct{ *metadata.Client }

// RoleKeys is that of the client in Vault's words.
func (m machine) RoleKeys(ctx context.Context) (vault.RoleKeys, error) {
	keys, err := m.Client.RoleKeys(ctx)
	return vault.RoleKeys(keys), err
}

// VirtualMachine is that of the client in Vault's words.
func (m machine) VirtualMachine(ctx context.Context) (vault.VirtualMachine, error) {
	vm, err := m.Client.VirtualMachine(ctx)
	return vault.VirtualMachine(vm), err
}
