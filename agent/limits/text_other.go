// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package limits

// ForgetText does nothing here.
func ForgetText() error { return nil }

// ReadSparingly does nothing here.
func ReadSparingly() error { return nil }
