// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// A Secret is a value that must not be printed. Every way of formatting it hides
// it; convert it to a string where it is handed over.
type Secret string

// String implements fmt.Stringer without the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString implements fmt.GoStringer without the secret.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText implements encoding.TextMarshaler without the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Bootstrap is what "consul connect envoy -bootstrap" writes for Envoy, as
// far as a sidecar has a use for it.
type Bootstrap struct {
	ProxyID              string // node.id; never ""
	Service              string // node.cluster
	Namespace, Partition string // Consul Enterprise; "" for default
	Admin                string // host:port of Envoy's admin listener; "" for none
	Token                Secret // x-consul-token; "" for none
}

const (
	maxBootstrap = 1 << 20
	// maxName bounds an ID: it becomes a part of URLs and of log lines.
	maxName = 1024
)

// Errors of a bootstrap, for callers that tell people what to do.
var (
	ErrNoProxyID = errors.New("node.id, the ID of the sidecar, is missing or no ID")
	ErrEmpty     = errors.New("the file is empty")
)

// wireBootstrap is the part of Envoy's bootstrap that is read.
type wireBootstrap struct {
	Admin struct {
		Address struct {
			SocketAddress struct {
				Address   string `json:"address"`
				PortValue uint16 `json:"port_value"`
			} `json:"socket_address"`
		} `json:"address"`
	} `json:"admin"`
	Node struct {
		ID       string                     `json:"id"`
		Cluster  string                     `json:"cluster"`
		Metadata map[string]json.RawMessage `json:"metadata"`
	} `json:"node"`
	DynamicResources struct {
		ADS struct {
			// Consul writes an object; Envoy takes a list as well.
			GRPC json.RawMessage `json:"grpc_services"`
		} `json:"ads_config"`
	} `json:"dynamic_resources"`
}

type wireGRPC struct {
	Metadata []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"initial_metadata"`
}

// ReadBootstrap reads the file at path. An error wraps fs.ErrNotExist,
// [ErrEmpty] or [ErrNoProxyID] where that is the reason; it never quotes the
// file, which holds a token.
func ReadBootstrap(path string) (Bootstrap, error) {
	data, err := readFile(path, maxBootstrap)
	if err != nil {
		return Bootstrap{}, fmt.Errorf("read Envoy's bootstrap: %w", err)
	}
	b, err := ParseBootstrap(data)
	if err != nil {
		return Bootstrap{}, fmt.Errorf("read Envoy's bootstrap %s: %w", path, err)
	}
	return b, nil
}

// ParseBootstrap reads one JSON object. Errors are those of [ReadBootstrap].
func ParseBootstrap(data []byte) (Bootstrap, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return Bootstrap{}, ErrEmpty
	}
	if len(data) > maxBootstrap {
		return Bootstrap{}, fmt.Errorf("it is larger than %d bytes", maxBootstrap)
	}
	var w wireBootstrap
	if err := json.Unmarshal(data, &w); err != nil {
		return Bootstrap{}, fmt.Errorf("it is not the JSON that Consul writes: %w", unquoted(err))
	}
	if !isName(w.Node.ID) {
		return Bootstrap{}, ErrNoProxyID
	}
	b := Bootstrap{
		ProxyID:   w.Node.ID,
		Namespace: tenancy(w.Node.Metadata["namespace"]),
		Partition: tenancy(w.Node.Metadata["partition"]),
	}
	if isName(w.Node.Cluster) {
		b.Service = w.Node.Cluster
	}
	if at := w.Admin.Address.SocketAddress; net.ParseIP(at.Address) != nil && at.PortValue != 0 {
		b.Admin = net.JoinHostPort(at.Address, strconv.Itoa(int(at.PortValue)))
	}
	token, err := w.token()
	if err != nil {
		return Bootstrap{}, err
	}
	b.Token = token
	return b, nil
}

// unquoted keeps the place and drops the text of an error of package json.
func unquoted(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it goes wrong at byte %d", syntax.Offset)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s is of another type", kind.Field)
	}
	return errors.New("it does not parse")
}

func tenancy(raw json.RawMessage) string {
	var name string
	if json.Unmarshal(raw, &name) != nil || name == "default" || !isName(name) {
		return "" // what Consul without tenancies does not want to hear either
	}
	return name
}

func (w wireBootstrap) token() (Secret, error) {
	raw := bytes.TrimSpace(w.DynamicResources.ADS.GRPC)
	if len(raw) == 0 {
		return "", nil
	}
	var services []wireGRPC
	if raw[0] != '[' {
		services = make([]wireGRPC, 1)
		raw = append(append([]byte{'['}, raw...), ']')
	}
	if err := json.Unmarshal(raw, &services); err != nil {
		return "", fmt.Errorf("dynamic_resources.ads_config.grpc_services: %w", unquoted(err))
	}
	for _, s := range services {
		for _, m := range s.Metadata {
			if m.Key != "x-consul-token" || m.Value == "" {
				continue
			}
			if !isName(m.Value) {
				return "", errors.New("the x-consul-token is not a token")
			}
			return Secret(m.Value), nil
		}
	}
	return "", nil
}

// isName reports whether s can be an ID or a token: one printable word.
func isName(s string) bool {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// readFile returns a regular file of at most limit bytes. A pipe or a device in
// its place would make the sidecar wait for whoever put it there.
func readFile(path string, limit int64) ([]byte, error) {
	// What was opened is looked at, and the opening does not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("it is not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is larger than %d bytes", limit)}
	}
	return data, nil
}
