// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package nomad turns what Nomad gives a task, its workload identity and the
// services of its group, into values of the mesh. It is the only package that
// may import Nomad's API; it must not know Consul, Vault or the data plane.
package nomad
