// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
)

// maxCredentialBytes bounds a token, role id, secret id or JWT file.
const maxCredentialBytes = 64 << 10

// credentials are what a login is made with. They are comparable, so a rotated
// file is seen by its content, whatever its time and size.
type credentials struct {
	token, roleID, secretID, jwt string
	cert, key                    string // PEM
}

func (c credentials) secrets() secrets {
	return secrets{c.token, c.roleID, c.secretID, c.jwt, c.key}
}

// read returns the credentials as they are now. Errors name files, never their
// content.
func (a Auth) read() (credentials, error) {
	var c credentials
	for _, from := range []struct {
		what, value, file string
		to                *string
	}{
		{"token", a.Token, a.TokenFile, &c.token},
		{"role id", a.RoleID, a.RoleIDFile, &c.roleID},
		{"secret id", a.SecretID, a.SecretIDFile, &c.secretID},
		{"JWT", "", a.JWTFile, &c.jwt},
		{"certificate", "", a.CertFile, &c.cert},
		{"key", "", a.KeyFile, &c.key},
	} {
		*from.to = from.value
		if from.file == "" {
			continue
		}
		value, err := readCredential(from.file)
		if err != nil {
			return credentials{}, fmt.Errorf("read %s for Vault: %w", from.what, err)
		}
		*from.to = value
	}
	return c, nil
}

func readCredential(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxCredentialBytes+1))
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(content))
	switch {
	case len(content) > maxCredentialBytes:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxCredentialBytes)
	case value == "":
		return "", fmt.Errorf("%s is empty", path)
	}
	return value, nil
}

// A grant is what a login or a renewal gave.
type grant struct {
	token     string
	ttl       time.Duration // 0: never ends
	full      time.Duration // what a renewal gives while the maximum TTL is far
	renewable bool
}

// logIn trades credentials for a token. Only Run calls it: the client it uses
// carries a token during a look-up.
func (c *Client) logIn(ctx context.Context, creds credentials) (grant, error) {
	auth := c.cfg.Auth
	doing := fmt.Sprintf("log in to Vault at %s with auth method %s at auth/%s", c.cfg.Address, auth.Method, auth.mount())
	hide := creds.secrets()
	var g grant
	var err error
	switch auth.Method {
	case TokenMethod:
		g, err = c.lookUp(ctx, creds.token)
	case AppRoleMethod:
		g, err = c.appRole(ctx, creds)
	default:
		var p proof
		if p, err = c.prove(ctx, creds); err != nil {
			return grant{}, fmt.Errorf("%s: %w", doing, err)
		}
		hide = append(hide, p.hide...)
		var secret *api.Secret
		secret, err = c.login.Logical().WriteWithContext(ctx, "auth/"+auth.mount()+"/login", p.data)
		if err == nil {
			g, err = granted(secret)
		}
	}
	if err != nil {
		f := newFailure(err, hide)
		return grant{}, advise(doing, f, loginRemedy(auth, f))
	}
	return g, nil
}

func (c *Client) appRole(ctx context.Context, creds credentials) (grant, error) {
	login, err := approle.NewAppRoleAuth(creds.roleID, &approle.SecretID{FromString: creds.secretID}, approle.WithMountPath(c.cfg.Auth.mount()))
	if err != nil {
		return grant{}, err
	}
	secret, err := login.Login(ctx, c.login)
	if err != nil {
		return grant{}, err
	}
	return granted(secret)
}

// lookUp asks what a given token is worth. The token in use is not touched.
func (c *Client) lookUp(ctx context.Context, token string) (grant, error) {
	c.login.SetToken(token)
	defer c.login.ClearToken()
	secret, err := c.login.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return grant{}, err
	}
	if secret == nil || secret.Data == nil {
		return grant{}, errors.New("the response describes no token")
	}
	renewable, _ := secret.Data["renewable"].(bool)
	ttl, err := seconds(secret.Data["ttl"])
	if err != nil {
		return grant{}, err
	}
	full, err := seconds(secret.Data["creation_ttl"])
	if err != nil {
		return grant{}, err
	}
	return grant{token: token, ttl: ttl, full: full, renewable: renewable}, nil
}

func granted(secret *api.Secret) (grant, error) {
	switch {
	case secret == nil || secret.Auth == nil:
		return grant{}, errors.New("the response holds no token")
	case secret.Auth.MFARequirement != nil:
		return grant{}, errors.New("a second factor is asked for: exempt this login from MFA")
	case secret.Auth.ClientToken == "":
		return grant{}, errors.New("the response holds no token")
	}
	ttl := boundedSeconds(int64(secret.Auth.LeaseDuration))
	return grant{token: secret.Auth.ClientToken, ttl: ttl, full: ttl, renewable: secret.Auth.Renewable}, nil
}

func seconds(v any) (time.Duration, error) {
	number, ok := v.(json.Number)
	if !ok {
		return 0, errors.New("the response names no TTL of the token")
	}
	n, err := number.Int64()
	if err != nil || n < 0 {
		return 0, errors.New("the response names an impossible TTL of the token")
	}
	return boundedSeconds(n), nil
}

// boundedSeconds keeps a huge number of seconds from overflowing a Duration.
func boundedSeconds(n int64) time.Duration {
	const most = int64(100 * 365 * 24 * time.Hour / time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}
