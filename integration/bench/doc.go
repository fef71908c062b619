// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package bench measures what a call through two sidecars costs, with Outrider
// and with Envoy in the same run on the same machine. It holds a benchmark and
// its tests only, and must not judge: what the numbers mean is for its reader.
package bench
