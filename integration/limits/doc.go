// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package limits proves that the agent stays within the memory that the system
// gives it, in a memory cgroup with the limit of the packaged unit. It holds
// tests only, which need root; each is named by the property it proves.
package limits
