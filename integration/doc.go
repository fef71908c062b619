// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package integration proves the behaviour of whole agents, run as processes,
// against real Consul and Vault servers. It holds tests only; each is named by
// the property it proves.
package integration
