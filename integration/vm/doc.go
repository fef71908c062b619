// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package vm proves that the packages of Outrider do on a machine what they
// promise: a Debian of its own, booted with systemd, into which they are
// installed, upgraded, and from which they are removed, beside real Consul and
// Vault. It holds tests only, each named by the property it proves, and it must
// leave nothing on the host but the Debian root in the cache.
package vm
