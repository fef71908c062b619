// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Outrider is a Consul service-mesh sidecar for virtual machines and bare metal.
package main

import (
	"os"

	"github.com/outrider-mesh/outrider/command"
)

func main() {
	os.Exit(command.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
