// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package jobs is the door to Nomad's HTTP API: it puts the sidecar task into
// jobs, registers them and follows them; beside it stand the example jobs. It
// must not talk to Consul or Vault, nor know how a sidecar serves.
package jobs
