// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A Server is the Consul agent that Nomad itself talks to, as it told the
// command that made the bootstrap.
type Server struct {
	// Address is host:port, http://…, https://… or unix://…; "" when Nomad gave
	// none, which means Consul's own default. Host and port without a scheme
	// mean what SSL says.
	Address string
	SSL     bool
	// Files of TLS, as paths on the host.
	CAFile, CAPath, CertFile, KeyFile string
}

const (
	maxHook = 64 << 10
	maxHTTP = 4096 // of an address
)

// OwnServer reads the two files that Nomad leaves beside the bootstrap for
// people, .envoy_bootstrap.cmd and .envoy_bootstrap.env. The first of them holds
// a token, so that no error quotes them.
func (t Task) OwnServer() (Server, error) {
	command, err := readFile(filepath.Join(t.SecretsDir, ".envoy_bootstrap.cmd"), maxHook)
	if err != nil {
		return Server{}, fmt.Errorf("learn where Nomad reaches Consul: %w", err)
	}
	env, err := readFile(filepath.Join(t.SecretsDir, ".envoy_bootstrap.env"), maxHook)
	if err != nil {
		return Server{}, fmt.Errorf("learn how Nomad reaches Consul: %w", err)
	}
	s, err := parseHook(command, env)
	if err != nil {
		return Server{}, fmt.Errorf("learn where Nomad reaches Consul from %s: %w", t.SecretsDir, err)
	}
	return s, nil
}

// parseHook reads the arguments of "consul connect envoy", separated by blanks,
// and a JSON list of NAME=value.
func parseHook(command, env []byte) (Server, error) {
	if len(command) > maxHook || len(env) > maxHook {
		return Server{}, errors.New("the files of Nomad's hook are larger than they can be")
	}
	var s Server
	args := strings.Fields(string(command))
	if len(args) < 2 || args[0] != "connect" || args[1] != "envoy" {
		return Server{}, errors.New(".envoy_bootstrap.cmd does not hold the arguments of \"consul connect envoy\"")
	}
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if name != "http-addr" || !strings.HasPrefix(arg, "-") {
			continue
		}
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		if value == "" || strings.HasPrefix(value, "-") || len(value) > maxHTTP || !isName(value) {
			return Server{}, errors.New("the -http-addr of .envoy_bootstrap.cmd is no address")
		}
		s.Address = value
	}
	var pairs []string
	if err := json.Unmarshal(env, &pairs); err != nil {
		return Server{}, fmt.Errorf(".envoy_bootstrap.env is not a list of variables: %w", unquoted(err))
	}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "CONSUL_HTTP_SSL":
			s.SSL = value == "true" || value == "1"
		case "CONSUL_CACERT":
			s.CAFile = value
		case "CONSUL_CAPATH":
			s.CAPath = value
		case "CONSUL_CLIENT_CERT":
			s.CertFile = value
		case "CONSUL_CLIENT_KEY":
			s.KeyFile = value
		}
	}
	return s, nil
}
