// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Command consul-cni stands in, in the tests only, for the CNI plugin of that
// name that Nomad runs for a group with transparent_proxy: it writes the redirect
// rules that Nomad asks for into the group's network namespace, with Consul's own
// library for them, and does nothing else of what the plugin does. The plugin
// itself is released as a binary only, which a clone of this repository cannot
// build.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hashicorp/consul/sdk/iptables"
)

// version is what Nomad's clients fingerprint: jobs with transparent_proxy are
// placed where it is at least 1.4.2.
const version = "1.5.0"

// rulesKey is the CNI argument in which Nomad hands over the wanted redirection,
// as JSON.
const rulesKey = "CONSUL_IPTABLES_CONFIG"

// maxInput bounds the network configuration, in bytes.
const maxInput = 1 << 20

func main() {
	if err := run(os.Getenv("CNI_COMMAND"), os.Getenv("CNI_ARGS"), os.Stdin, os.Stdout); err != nil {
		// Errors are told on standard output (CNI specification, section 5).
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.0.0", "code": 100, "msg": err.Error()})
		os.Exit(1) //nolint:forbidigo // nothing is deferred
	}
}

func run(command, args string, in io.Reader, out io.Writer) error {
	switch command {
	case "":
		_, err := fmt.Fprintf(out, "CNI consul-cni plugin v%s\n", version)
		return err
	case "VERSION":
		return json.NewEncoder(out).Encode(map[string]any{"cniVersion": "1.0.0", "supportedVersions": []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"}})
	case "ADD":
		return add(args, in, out)
	case "DEL", "CHECK":
		return nil // the rules end with the namespace
	}
	return fmt.Errorf("CNI command %q is not known", command)
}

// add passes on the result of the plugin before, as one of a chain must.
func add(args string, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(in, maxInput))
	if err != nil {
		return fmt.Errorf("read the network configuration: %w", err)
	}
	var network struct {
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(text, &network); err != nil {
		return fmt.Errorf("understand the network configuration: %w", err)
	}
	if len(network.PrevResult) == 0 {
		return errors.New("there is no result of a plugin before: consul-cni must stand last in a list of plugins")
	}
	rules, wanted := argument(args)
	if wanted {
		var config iptables.Config
		if err := json.Unmarshal([]byte(rules), &config); err != nil {
			return fmt.Errorf("understand %s: %w", rulesKey, err)
		}
		if err := iptables.Setup(config, false); err != nil {
			return fmt.Errorf("write the redirect rules: %w", err)
		}
	}
	if _, err := out.Write(network.PrevResult); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// argument finds the wanted rules among arguments of the form A=1;B=2. A group
// without transparent_proxy has none.
func argument(args string) (rules string, found bool) {
	for pair := range strings.SplitSeq(args, ";") {
		if name, value, _ := strings.Cut(pair, "="); name == rulesKey {
			return value, true
		}
	}
	return "", false
}
