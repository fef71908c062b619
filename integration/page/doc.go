// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package page tests the page of a host in a real browser, against a host that
// the tests make up and against a whole agent with a real Consul. It has no code
// of its own: it must not be imported.
package page
