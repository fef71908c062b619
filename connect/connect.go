// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package connect is the vocabulary of the mesh: the values that the control
// plane hands to the data plane. It holds no behaviour that needs I/O, a clock
// or a lock, and imports nothing but the standard library.
//
// On one page: a local [Service] is known to the mesh by its [Identity], a
// SPIFFE ID, which it proves with a [Leaf]. Peers are believed when their
// certificate chains to the [TrustBundle]. An [Intention] says which identity
// may call the service. An [Upstream] is a service the local application calls:
// its discovery [Chain] names one [Target] or several in failover order, and
// each target has [Endpoint]s. A [Snapshot] is all of that at one moment.
//
// Values are immutable once they are part of a Snapshot.
package connect
