// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestConfigurationsThatCannotWorkAreRefusedWithoutTheirSecrets(t *testing.T) {
	good := Config{Address: "https://vault.test:8200", Auth: appRole}
	with := func(change func(*Config)) Config {
		c := good
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string // "" when it is good
	}{
		"good":            {good, ""},
		"unix":            {with(func(c *Config) { c.Address = "unix:///run/vault.sock" }), ""},
		"no address":      {with(func(c *Config) { c.Address = "" }), "want http://host:port"},
		"no scheme":       {with(func(c *Config) { c.Address = "vault.test:8200" }), "want http://host:port"},
		"password":        {with(func(c *Config) { c.Address = "https://u:secret-password@vault.test" }), "no user name"},
		"broken password": {with(func(c *Config) { c.Address = "https://u:secret-password%zz@vault.test" }), "not a URL"},
		"method":          {with(func(c *Config) { c.Auth = Auth{Method: "ldap"} }), "want token, approle, jwt, cert, aws, gcp or azure"},
		"no token":        {with(func(c *Config) { c.Auth = Auth{Method: TokenMethod} }), "exactly one of token and token_file"},
		"two role ids":    {with(func(c *Config) { c.Auth.RoleIDFile = "f" }), "exactly one of role_id and role_id_file"},
		"no secret id":    {with(func(c *Config) { c.Auth.SecretID = "" }), "exactly one of secret_id and secret_id_file"},
		"jwt":             {with(func(c *Config) { c.Auth = Auth{Method: JWTMethod, Role: "r"} }), "jwt_file"},
		"cert":            {with(func(c *Config) { c.Auth = Auth{Method: CertMethod, CertFile: "f"} }), "cert_file and key_file"},
		"cert by http": {with(func(c *Config) {
			c.Address, c.Auth = "http://v:1", Auth{Method: CertMethod, CertFile: "f", KeyFile: "k"}
		}), "write https://"},
		"aws": {with(func(c *Config) { c.Auth, c.Machine = Auth{Method: AWSMethod}, machine{} }), "needs a role"},
		"aws region": {with(func(c *Config) {
			c.Auth, c.Machine = Auth{Method: AWSMethod, Role: "r", Region: "evil.test/"}, machine{}
		}), "region"},
		"aws header": {with(func(c *Config) {
			c.Auth, c.Machine = Auth{Method: AWSMethod, Role: "r", HeaderValue: "a\nb"}, machine{}
		}), "header_value"},
		"gcp": {with(func(c *Config) {
			c.Auth, c.Machine = Auth{Method: GCPMethod, Role: "r", ServiceAccount: "../x"}, machine{}
		}), "service_account"},
		"nowhere":     {with(func(c *Config) { c.Auth = Auth{Method: AzureMethod, Role: "r"} }), "nothing here proves"},
		"good azure":  {with(func(c *Config) { c.Auth, c.Machine = Auth{Method: AzureMethod, Role: "r"}, machine{} }), ""},
		"mount":       {with(func(c *Config) { c.Auth.Mount = "../sys" }), "not a path of Vault"},
		"no CA file":  {with(func(c *Config) { c.TLS.CAFile = "/does/not/exist" }), "check ca_file"},
		"half a pair": {with(func(c *Config) { c.TLS.CertFile = "cert.pem" }), "vault tls"},
	} {
		_, err := NewClient(c.cfg, hclog.NewNullLogger())
		switch {
		case (err == nil) != (c.want == ""):
			t.Errorf("%s: error is %v", name, err)
		case err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret-")):
			t.Errorf("%s: error is %q, want it to say %q and no secret", name, err, c.want)
		}
	}
}

func TestCredentialFilesAreTrimmedAndBounded(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		content string
		want    string // "" when it is refused
	}{
		"plain":   {"s3cret", "s3cret"},
		"newline": {"s3cret\r\n", "s3cret"},
		"largest": {strings.Repeat("x", maxCredentialBytes), strings.Repeat("x", maxCredentialBytes)},
		"larger":  {strings.Repeat("x", maxCredentialBytes+1), ""},
		"empty":   {" \n", ""},
	} {
		got, err := Auth{Method: TokenMethod, TokenFile: write(t, filepath.Join(dir, name), c.content)}.read()
		if got.token != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: token of %d bytes and error %v", name, len(got.token), err)
		}
		if err != nil && (!strings.Contains(err.Error(), filepath.Join(dir, name)) || strings.Contains(err.Error(), "xxx")) {
			t.Errorf("%s: error %q must name the file and not its content", name, err)
		}
	}
}

// clientOf returns a client of a real server with TLS settings.
func clientOf(t *testing.T, address string, tls TLS) *Client {
	t.Helper()
	c, err := NewClient(Config{Address: address, TLS: tls, Namespace: "team-a", Auth: appRole}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.transport.CloseIdleConnections)
	return c
}

func logInError(t *testing.T, c *Client) string {
	t.Helper()
	_, err := c.logIn(t.Context(), credentials{roleID: roleID, secretID: secretID})
	if err == nil {
		t.Fatal("the login succeeded")
	}
	return err.Error()
}

func TestAnswersAreBoundedAndNothingIsRetriedBehindOurBack(t *testing.T) {
	requests := make(chan *http.Request, 100)
	answer := func(w http.ResponseWriter, status int, body string) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
	mux := http.NewServeMux()
	var next func(http.ResponseWriter)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		next(w)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c := clientOf(t, server.URL, TLS{})
	for name, tc := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"endless success": {200, `{"auth":{"client_token":"` + strings.Repeat("x", maxResponseBytes), "larger than 1 MiB"},
		"endless error":   {400, strings.Repeat("x", maxResponseBytes+1), "larger than 1 MiB"},
		"unavailable":     {503, `{"errors":["Vault is sealed"]}`, "unseal Vault"},
		"exactly a MiB":   {400, strings.Repeat("x", maxResponseBytes), "Vault answered 400: xxx"},
		"not Vault":       {404, "404 page not found", "something else than Vault"},
		"not JSON":        {200, "<html>", "something else than Vault"},
		"nothing":         {200, "", "no token"},
		"empty":           {200, "{}", "no token"},
		"a second factor": {200, `{"auth":{"mfa_requirement":{"mfa_request_id":"1"}}}`, "second factor"},
		"echo":            {400, "you sent " + secretID, "[hidden]"},
	} {
		t.Run(name, func(t *testing.T) {
			next = func(w http.ResponseWriter) { answer(w, tc.status, tc.body) }
			text := logInError(t, c)
			contains(t, text, tc.want, "log in to Vault at "+server.URL)
			if strings.Contains(text, secretID) || strings.Contains(text, roleID) || len(text) > 700 {
				t.Errorf("the error is too long or holds a secret: %q", text)
			}
			r := <-requests
			if got := r.Header.Get("X-Vault-Namespace"); got != "team-a" {
				t.Errorf("namespace is %q, want team-a", got)
			}
			if r.Header.Get("X-Vault-Request") != "true" || len(requests) != 0 {
				t.Errorf("%d more requests; headers %v", len(requests), r.Header)
			}
		})
	}
}

func TestTheCertificateOfVaultIsChecked(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	server.Config.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(meshca.PEM(server.Certificate())), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(t, logInError(t, clientOf(t, server.URL, TLS{})), "set tls.ca_file")
	contains(t, logInError(t, clientOf(t, server.URL, TLS{CAFile: ca, ServerName: "other.test"})), "set tls.server_name")
	contains(t, logInError(t, clientOf(t, server.URL, TLS{CAFile: ca})), "something else than Vault")
	contains(t, logInError(t, clientOf(t, strings.Replace(server.URL, "https", "http", 1), TLS{})), "400")
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	contains(t, logInError(t, clientOf(t, strings.Replace(plain.URL, "http", "https", 1), TLS{})), "use http://")
}

func TestAHugeTTLDoesNotOverflow(t *testing.T) {
	if d := boundedSeconds(1 << 62); d <= 0 || d > 101*365*24*time.Hour {
		t.Errorf("a huge TTL becomes %s", d)
	}
}
