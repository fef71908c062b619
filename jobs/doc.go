// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package jobs puts the sidecar task into a Nomad job and keeps the example
// jobs that are checked against it. It must not talk to Nomad or Consul: a job
// comes in as a value and goes out as a value.
package jobs
