// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package consul is the door to Consul: it reads what the mesh needs through
// the HTTP API of an agent, turns it into values of package connect, and keeps
// the registration of local services. It is the only importer of Consul's API
// client. It holds no state of the proxy, decides nothing about traffic, and
// never lets an answer it cannot understand replace one it could.
package consul

import (
	"context"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Config says how to reach Consul.
type Config struct {
	// Address is host:port, http://host:port[/prefix], https://… or
	// unix:///path; empty means 127.0.0.1:8500.
	Address string
	// Token is the ACL token. TokenFile, when set, is read at each request
	// after it changed, and comes before Token while it holds one.
	Token, TokenFile string
	// HTTPAuth is user:password for a reverse proxy in front of Consul.
	HTTPAuth string
	// Datacenter, Namespace and Partition are sent with each request unless
	// empty; the agent's own are meant then.
	Datacenter, Namespace, Partition string
	TLS                              TLS
	// DefaultIntentionPolicy is allow or deny, and overrides what Consul says
	// about connections that no intention speaks of; empty means ask Consul.
	DefaultIntentionPolicy string
	// Login gets the token from an auth method, instead of Token and TokenFile;
	// nil for those.
	Login *Login
	// Dial makes the connections to Consul's address; nil means from where the
	// process is. It is never asked for a unix socket.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Farewell bounds the logouts at the end of [Client.Run]; 0 means 3 s.
	Farewell time.Duration
}

// A Login exchanges a JWT for an ACL token (Consul, acl login: auth method of
// type jwt).
type Login struct {
	AuthMethod string
	// TokenFile holds the JWT; it is read at each login.
	TokenFile string
	// Meta is shown in the description of the token in Consul; nil names
	// Outrider. It is no secret.
	Meta map[string]string
}

// TLS says how https addresses are verified and who we are there.
type TLS struct {
	CAFile, CAPath     string
	CertFile, KeyFile  string
	ServerName         string
	InsecureSkipVerify bool
}

// ConfigFromEnv returns the configuration that Consul's own commands take from
// the environment: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE,
// CONSUL_HTTP_AUTH, CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT,
// CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME,
// CONSUL_NAMESPACE and CONSUL_PARTITION (Consul, commands: environment
// variables).
func ConfigFromEnv() Config {
	env := api.DefaultConfig()
	cfg := Config{
		Address:    env.Address,
		Token:      env.Token,
		TokenFile:  env.TokenFile,
		HTTPAuth:   os.Getenv(api.HTTPAuthEnvName),
		Datacenter: env.Datacenter,
		Namespace:  env.Namespace,
		Partition:  env.Partition,
		TLS: TLS{
			CAFile:             env.TLSConfig.CAFile,
			CAPath:             env.TLSConfig.CAPath,
			CertFile:           env.TLSConfig.CertFile,
			KeyFile:            env.TLSConfig.KeyFile,
			ServerName:         env.TLSConfig.Address,
			InsecureSkipVerify: env.TLSConfig.InsecureSkipVerify,
		},
	}
	if env.Scheme == "https" {
		// CONSUL_HTTP_SSL asks for TLS; an address that says http does not
		// take it away, as with Consul's commands.
		rest := strings.TrimPrefix(cfg.Address, "http://")
		if !strings.Contains(rest, "://") {
			cfg.Address = "https://" + rest
		}
	}
	return cfg
}

// base is an address split into what HTTP needs.
type base struct {
	scheme, host, prefix string
	socket               string // path of a unix socket, "" for TCP
}

// where names the agent, for errors.
func (b base) where() string {
	if b.socket != "" {
		return "unix://" + b.socket
	}
	return b.scheme + "://" + b.host + b.prefix
}

func (b base) url(path string, params url.Values) *url.URL {
	return &url.URL{Scheme: b.scheme, Host: b.host, Path: b.prefix + path, RawQuery: params.Encode()}
}
