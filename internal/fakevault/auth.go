// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package fakevault

import (
	"fmt"
	"net/http"
	"time"
)

// A Lease is how long tokens live. Max counts from the login; 0 means no limit.
// TTL 0 means a token without an end.
type Lease struct {
	TTL, Max  time.Duration
	Renewable bool
}

type token struct {
	lease   Lease
	created time.Time
	ends    time.Time // zero: never
}

// AddToken makes a token valid from now on.
func (v *Vault) AddToken(name string, lease Lease) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.add(name, lease)
}

func (v *Vault) add(name string, lease Lease) {
	t := &token{lease: lease, created: time.Now()}
	if lease.TTL > 0 {
		t.ends = t.created.Add(lease.TTL)
	}
	v.tokens[name] = t
}

// Revoke ends a token; "" ends every token.
func (v *Vault) Revoke(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if name == "" {
		clear(v.tokens)
	}
	delete(v.tokens, name)
}

// AllowAppRole makes a pair of role id and secret id good for tokens.
func (v *Vault) AllowAppRole(roleID, secretID string, lease Lease) {
	v.allow("auth/approle/login|"+roleID+"|"+secretID, lease)
}

// AllowJWT makes a JWT good for tokens of a role.
func (v *Vault) AllowJWT(mount, role, jwt string, lease Lease) {
	v.allow("auth/"+mount+"/login|"+role+"|"+jwt, lease)
}

func (v *Vault) allow(key string, lease Lease) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.logins[key] = lease
}

// Forbid ends the use of all credentials.
func (v *Vault) Forbid() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.logins)
}

func (v *Vault) login(r Request) (int, any) {
	text := func(key string) string { s, _ := r.Body[key].(string); return s }
	if r.Token != "" {
		return http.StatusBadRequest, failed("a login carried a token")
	}
	lease, ok := v.logins[r.Path+"|"+text("role_id")+"|"+text("secret_id")]
	if !ok {
		lease, ok = v.logins[r.Path+"|"+text("role")+"|"+text("jwt")]
	}
	if !ok {
		// The request is echoed: a client must not repeat it.
		return http.StatusBadRequest, failed(fmt.Sprintf("invalid role or secret ID: %v", r.Body))
	}
	v.serial++
	name := fmt.Sprintf("hvs.fake-token-number-%d", v.serial)
	v.add(name, lease)
	return http.StatusOK, authOf(name, lease.TTL, lease.Renewable)
}

func authOf(name string, ttl time.Duration, renewable bool) any {
	return map[string]any{"auth": map[string]any{"client_token": name, "lease_duration": int(ttl.Seconds()), "renewable": renewable}}
}

func (v *Vault) valid(name string) *token {
	t := v.tokens[name]
	if t == nil || !t.ends.IsZero() && !time.Now().Before(t.ends) {
		return nil
	}
	return t
}

func (v *Vault) renew(r Request) (int, any) {
	t := v.valid(r.Token)
	switch {
	case t == nil:
		return http.StatusForbidden, failed("permission denied", "invalid token "+r.Token)
	case !t.lease.Renewable:
		return http.StatusBadRequest, failed("lease is not renewable")
	}
	ttl := t.lease.TTL
	if t.lease.Max > 0 {
		ttl = min(ttl, time.Until(t.created.Add(t.lease.Max)))
	}
	t.ends = time.Now().Add(ttl)
	return http.StatusOK, authOf(r.Token, ttl, true)
}

func (v *Vault) lookup(r Request) (int, any) {
	t := v.valid(r.Token)
	if t == nil {
		return http.StatusForbidden, failed("permission denied", "invalid token "+r.Token)
	}
	ttl := 0
	if !t.ends.IsZero() {
		ttl = int(time.Until(t.ends).Seconds())
	}
	return http.StatusOK, map[string]any{"data": map[string]any{
		"ttl": ttl, "creation_ttl": int(t.lease.TTL.Seconds()), "renewable": t.lease.Renewable,
	}}
}
