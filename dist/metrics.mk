# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# What belongs to metrics: included by the Makefile, and usable alone, from the
# root of the checkout, as make -f dist/metrics.mk promtool.

GO             ?= go
OUTRIDER_CACHE ?= $(HOME)/.cache/outrider

.PHONY: promtool metrics-doc

promtool: ## Prometheus's promtool for the tests, taken out of Debian's package
	@integration/servers/promtool/provide '$(OUTRIDER_CACHE)'

metrics-doc: ## write docs/metrics.md from the tables of metrics
	$(GO) run ./dist/metrics > docs/metrics.md.new
	@mv docs/metrics.md.new docs/metrics.md
