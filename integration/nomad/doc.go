// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package nomad proves what Outrider does under a real Nomad, in bridged groups
// beside real Consul and Vault, on a host that the tests make for themselves.
// It holds tests only; each is named by the property it proves.
package nomad
