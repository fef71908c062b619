// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An Identity is a workload identity that Nomad keeps fresh in a file of the
// task (Nomad documentation, identity block with file = true).
type Identity struct {
	Name     string
	File     string
	Audience []string // as the token claims; nobody has verified it
}

// Whom an identity is for, in Nomad's documentation.
const (
	ConsulAudience = "consul.io"
	VaultAudience  = "vault.io"
)

const (
	maxIdentities = 64
	maxJWT        = 64 << 10
)

// Identities lists the workload identities in the secrets directory by name. A
// file that holds no JWT is left out. The claims are read only to choose a file:
// whoever receives the token verifies it.
func (t Task) Identities() ([]Identity, error) {
	entries, err := os.ReadDir(t.SecretsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []Identity
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".jwt")
		name, prefixed := strings.CutPrefix(name, "nomad_")
		if !ok || !prefixed || len(found) == maxIdentities {
			continue
		}
		file := filepath.Join(t.SecretsDir, e.Name())
		data, err := readFile(file, maxJWT)
		if err != nil {
			continue
		}
		if audience, ok := audience(data); ok {
			found = append(found, Identity{Name: name, File: file, Audience: audience})
		}
	}
	slices.SortFunc(found, func(a, b Identity) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// ForAudience returns the first of the identities that has the audience.
func ForAudience(audience string, all []Identity) (Identity, bool) {
	i := slices.IndexFunc(all, func(i Identity) bool { return slices.Contains(i.Audience, audience) })
	if i < 0 {
		return Identity{}, false
	}
	return all[i], true
}

// audience reads the claim aud, a string or a list of them (RFC 7519, 4.1.3).
func audience(jwt []byte) ([]string, bool) {
	parts := strings.Split(strings.TrimSpace(string(jwt)), ".")
	if len(parts) != 3 {
		return nil, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, false
	}
	var claims struct {
		Audience json.RawMessage `json:"aud"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return nil, false
	}
	var one string
	if json.Unmarshal(claims.Audience, &one) == nil {
		return []string{one}, true
	}
	var many []string
	if json.Unmarshal(claims.Audience, &many) != nil {
		return nil, len(claims.Audience) == 0
	}
	return many, true
}

// SecretFile returns the path of a file in the secrets directory; "" when there
// is none, or nothing in it.
func (t Task) SecretFile(name string) string {
	path := filepath.Join(t.SecretsDir, name)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return ""
	}
	return path
}
