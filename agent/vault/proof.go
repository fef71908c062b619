// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// A Machine proves what the machine is on which the agent runs, by its cloud. Its
// methods ask each time anew; their errors hold no proof.
type Machine interface {
	// RoleKeys returns the keys of the machine's role on AWS.
	RoleKeys(ctx context.Context) (RoleKeys, error)
	// ServiceAccountToken returns a token of Google for an audience; account ""
	// is the machine's default one.
	ServiceAccountToken(ctx context.Context, account, audience string) (string, error)
	// ManagedToken returns a token of Azure for a resource.
	ManagedToken(ctx context.Context, resource string) (string, error)
	// VirtualMachine returns what Azure calls the machine.
	VirtualMachine(ctx context.Context) (VirtualMachine, error)
}

// RoleKeys are the keys of an AWS role: access key ID, secret access key and
// session token.
type RoleKeys struct{ ID, Secret, Session string }

// A VirtualMachine is one of Azure. Name is "" in a scale set, ScaleSet outside
// of one.
type VirtualMachine struct{ Subscription, ResourceGroup, Name, ScaleSet string }

// defaultResource is Azure's own API: what Vault's documentation has the mount
// configured with.
const defaultResource = "https://management.azure.com/"

// A proof is the body of a login, and what of it must not be in an error.
type proof struct {
	data map[string]any
	hide secrets
}

// prove composes the body of a login, as Vault's API documentation of each auth
// method describes it. Nothing is sent to Vault.
func (c *Client) prove(ctx context.Context, creds credentials) (proof, error) {
	auth := c.cfg.Auth
	switch auth.Method {
	case JWTMethod:
		return proof{data: map[string]any{"role": auth.Role, "jwt": creds.jwt}}, nil
	case CertMethod:
		return c.proveByCertificate(creds)
	case AWSMethod:
		keys, err := c.cfg.Machine.RoleKeys(ctx)
		if err != nil {
			return proof{}, err
		}
		data, err := identityRequest{keys: keys, region: auth.Region, serverID: auth.HeaderValue, at: time.Now()}.login()
		if err != nil {
			return proof{}, err
		}
		data["role"] = auth.Role
		return proof{data, secrets{keys.Secret, keys.Session}}, nil
	case GCPMethod:
		// Vault takes a token only if its audience ends in vault/ and the role.
		token, err := c.cfg.Machine.ServiceAccountToken(ctx, auth.ServiceAccount, "http://vault/"+auth.Role)
		if err != nil {
			return proof{}, err
		}
		return proof{map[string]any{"role": auth.Role, "jwt": token}, secrets{token}}, nil
	case AzureMethod:
		return c.proveByAzure(ctx)
	}
	return proof{}, fmt.Errorf("there is no login %q", auth.Method)
}

// proveByCertificate makes the connections to come show the certificate.
func (c *Client) proveByCertificate(creds credentials) (proof, error) {
	pair, err := tls.X509KeyPair([]byte(creds.cert), []byte(creds.key))
	if err != nil {
		return proof{}, fmt.Errorf("use certificate %s with key %s: %w: both are PEM, and the key belongs to the first certificate", c.cfg.Auth.CertFile, c.cfg.Auth.KeyFile, err)
	}
	if left := time.Until(pair.Leaf.NotAfter); left <= 0 {
		return proof{}, errors.New("the certificate " + c.cfg.Auth.CertFile + " has expired: replace it")
	}
	c.shown.Store(&pair)
	data := map[string]any{}
	if name := c.cfg.Auth.Role; name != "" {
		data["name"] = name
	}
	return proof{data: data}, nil
}

func (c *Client) proveByAzure(ctx context.Context) (proof, error) {
	auth := c.cfg.Auth
	token, err := c.cfg.Machine.ManagedToken(ctx, cmp.Or(auth.Resource, defaultResource))
	if err != nil {
		return proof{}, err
	}
	vm, err := c.cfg.Machine.VirtualMachine(ctx)
	if err != nil {
		return proof{}, err
	}
	data := map[string]any{
		"role": auth.Role, "jwt": token,
		"subscription_id": vm.Subscription, "resource_group_name": vm.ResourceGroup,
	}
	if vm.ScaleSet != "" {
		data["vmss_name"] = vm.ScaleSet
	} else {
		data["vm_name"] = vm.Name
	}
	return proof{data, secrets{token}}, nil
}
