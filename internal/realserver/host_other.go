// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package realserver

import (
	"fmt"
	"os"
)

// HostAddress is the address of the host that [OnOwnHost] makes.
const HostAddress = "169.254.10.1"

// OnOwnHost fails: only Linux has the namespaces that the tests need.
func OnOwnHost(func() (func(), error), func() int) int {
	fmt.Fprintln(os.Stderr, "these tests make Linux namespaces for Nomad: run them on Linux")
	return 1
}
