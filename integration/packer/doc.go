// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package packer builds a machine image with Packer and what the folder packer
// has for its users, looks for secrets in it, and starts clones of it. It must not
// hold anything that is not a test.
package packer
