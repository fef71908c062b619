// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package nomad knows what Nomad gives a sidecar task: its environment, the
// files of its secrets directory, and the network that it shares with its
// group. It decides where Consul is to be found from there. It must not talk to
// Nomad's API, know the data plane, or put a token into a log or an error.
package nomad
