// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// maxFile bounds what is read of a file, in bytes.
const maxFile = 64 << 10

// A secretFile is one that the configuration names.
type secretFile struct {
	what, path string
	secret     bool // nobody but the agent may read it
	jwt, cert  bool // what it holds may have expired
}

// named are the files that the configuration names, and those it is in itself
// when it holds a secret.
func (p *patient) named() (out []secretFile) {
	add := func(f secretFile) {
		if f.path != "" {
			out = append(out, f)
		}
	}
	c := p.Config.Consul
	add(secretFile{what: "Consul token", path: c.TokenFile, secret: true})
	if c.Login != nil {
		add(secretFile{what: "JWT for Consul", path: c.Login.TokenFile, secret: true, jwt: true})
	}
	inline := c.Token != ""
	if c.TLS != nil {
		add(secretFile{what: "CA of Consul", path: c.TLS.CAFile, cert: true})
		add(secretFile{what: "certificate for Consul", path: c.TLS.CertFile, cert: true})
		add(secretFile{what: "key for Consul", path: c.TLS.KeyFile, secret: true})
	}
	if v := p.Config.Vault; v != nil {
		inline = inline || v.Auth.Token != "" || v.Auth.SecretID != ""
		add(secretFile{what: "Vault token", path: v.Auth.TokenFile, secret: true})
		add(secretFile{what: "secret ID for Vault", path: v.Auth.SecretIDFile, secret: true})
		add(secretFile{what: "JWT for Vault", path: v.Auth.JWTFile, secret: true, jwt: true})
		add(secretFile{what: "certificate for Vault", path: v.Auth.CertFile, cert: true})
		add(secretFile{what: "key for Vault", path: v.Auth.KeyFile, secret: true})
		if v.TLS != nil {
			add(secretFile{what: "CA of Vault", path: v.TLS.CAFile, cert: true})
			add(secretFile{what: "key for Vault's TLS", path: v.TLS.KeyFile, secret: true})
		}
	}
	for _, s := range p.Config.Services {
		inline = inline || s.Token != ""
	}
	for _, at := range p.Files {
		add(secretFile{what: "configuration", path: at, secret: inline})
	}
	return out
}

// files looks at who else may read secrets, or put others in their place.
func (p *patient) files() []Finding {
	const check = "files"
	all := p.named()
	if len(all) == 0 {
		return nil
	}
	var out []Finding
	for _, f := range all {
		out = append(out, p.file(check, f)...)
	}
	if len(out) == 0 {
		out = append(out, Finding{check, OK, fmt.Sprintf("all %d that the configuration names are there, and only those who should may read and write them", len(all)), ""})
	}
	return out
}

func (p *patient) file(check string, f secretFile) []Finding {
	at, err := filepath.Abs(f.path)
	if err != nil {
		return []Finding{{check, Skipped, fmt.Sprintf("%s: %v", f.what, err), ""}}
	}
	info, err := fs.Stat(p.Root, inside(at))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return []Finding{{check, Skipped, fmt.Sprintf("%s %s may not be looked at by this user: run this as root", f.what, at), ""}}
	case err != nil:
		return []Finding{{check, Fail, fmt.Sprintf("%s %s is not there", f.what, at), "put it there, readable by the user that the agent runs as, or correct the configuration"}}
	}
	var out []Finding
	mode := info.Mode().Perm()
	switch {
	case mode&0o022 != 0 && !info.IsDir():
		out = append(out, Finding{check, Fail, fmt.Sprintf("%s %s may be written by others than its owner (%s)", f.what, at, info.Mode()), "chmod go-w " + at})
	case f.secret && mode&0o004 != 0 && !info.IsDir():
		out = append(out, Finding{check, Warn, fmt.Sprintf("%s %s may be read by every user of this host (%s)", f.what, at, info.Mode()), "chmod o= " + at + ", and chown it to root:outrider"})
	}
	if dir, err := fs.Stat(p.Root, inside(path.Dir(at))); err == nil && dir.Mode().Perm()&0o002 != 0 && dir.Mode()&fs.ModeSticky == 0 {
		out = append(out, Finding{check, Fail, fmt.Sprintf("%s %s can be replaced by every user of this host: its folder is open (%s)", f.what, at, dir.Mode()), "chmod o-w " + path.Dir(at)})
	}
	if f.jwt || f.cert {
		out = append(out, p.content(check, f, at)...)
	}
	return out
}

// inside is an absolute path as the root's file system names it.
func inside(at string) string {
	if at = strings.TrimPrefix(path.Clean(at), "/"); at == "" {
		return "."
	}
	return at
}

// content looks whether what a file holds has expired. Nothing of it is shown but
// the time.
func (p *patient) content(check string, f secretFile, at string) []Finding {
	file, err := p.Root.Open(inside(at))
	if err != nil {
		return []Finding{{check, Skipped, fmt.Sprintf("%s %s may not be read by this user: run this as root", f.what, at), ""}}
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil // a folder
	}
	var until time.Time
	if f.jwt {
		until, err = expiryOfJWT(string(text))
	} else {
		until, err = expiryOfPEM(text)
	}
	switch left := until.Sub(p.Now()); {
	case err != nil:
		return []Finding{{check, Fail, fmt.Sprintf("%s %s: %v", f.what, at, err), "put a good one in its place"}}
	case until.IsZero():
		return nil
	case left <= 0:
		return []Finding{{check, Fail, fmt.Sprintf("%s %s expired at %s", f.what, at, until.UTC().Format(time.RFC3339)), "put a new one in its place; who makes it has stopped to renew it"}}
	case f.cert && left < rotateSoon:
		return []Finding{{check, Warn, fmt.Sprintf("%s %s expires at %s", f.what, at, until.UTC().Format(time.RFC3339)), "put a new one in its place"}}
	}
	return nil
}

// expiryOfJWT reads the claim exp (RFC 7519); zero when there is none. Nothing is
// verified: whoever takes the token does.
func expiryOfJWT(text string) (time.Time, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("it holds no JSON web token")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, errors.New("it holds no JSON web token")
	}
	var claims struct {
		Exp *json.Number `json:"exp"`
	}
	if err := json.Unmarshal(body, &claims); err != nil {
		return time.Time{}, errors.New("it holds no JSON web token")
	}
	if claims.Exp == nil {
		return time.Time{}, nil
	}
	seconds, err := claims.Exp.Float64()
	if err != nil || seconds < 0 || seconds > 1e11 {
		return time.Time{}, errors.New("its token expires at no time that there is")
	}
	return time.Unix(int64(seconds), 0), nil
}

// expiryOfPEM is when the first certificate of a file expires. A bundle may hold
// hundreds, of which some have always expired.
func expiryOfPEM(text []byte) (time.Time, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, fmt.Errorf("its first certificate cannot be read: %w", err)
		}
		return cert.NotAfter, nil
	}
	return time.Time{}, errors.New("it holds no certificate in PEM")
}
