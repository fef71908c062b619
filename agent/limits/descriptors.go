// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"fmt"
	"math"
	"syscall"
)

// Descriptors returns how many files and sockets the process may have open. Go
// has raised the soft limit to the hard one by then, as far as it could.
func Descriptors() (int, error) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read the limit on open files: %w", err)
	}
	return int(min(uint64(r.Cur), math.MaxInt32)), nil
}

// spare is how many descriptors are for anything but proxied connections:
// listeners, connections to Consul and Vault, the admin API, files.
const spare = 200

// Pairs is how many proxied connections fit into a number of descriptors: two
// sockets for each.
func Pairs(descriptors int) int { return max(0, descriptors-spare) / 2 }
