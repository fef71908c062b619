# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Packer and the plugins of the examples for the tests: included by the Makefile.

.PHONY: packer-tools

packer-tools:
	@GO='$(GO)' integration/servers/packer/provide '$(OUTRIDER_CACHE)' >/dev/null
