// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import "github.com/outrider-mesh/outrider/connect"

// Covering is the intention that covers the caller, nil when none does. It must
// not be written to.
func (d Decision) Covering() *connect.Intention { return d.rule }
