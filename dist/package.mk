# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

# Packages of the system: included by the Makefile, and usable alone, from the
# root of the checkout, as make -f dist/package.mk package.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO             ?= go
MODULE         ?= github.com/outrider-mesh/outrider
OUTRIDER_CACHE ?= $(HOME)/.cache/outrider
CACHE_BIN      ?= $(OUTRIDER_CACHE)/bin
VERSION        ?= $(shell git describe --tags --dirty --match 'v*' 2>/dev/null)
COMMIT         ?= $(shell git describe --always --exclude '*' --abbrev=12 --dirty 2>/dev/null)

# The newest whose own modules can all be had, and that writes rpm with a library
# of long standing.
NFPM_VERSION := v2.45.2
NFPM         := $(CACHE_BIN)/nfpm-$(NFPM_VERSION)

PACKAGE_DIR   ?= bin/package
PACKAGE_ARCHS ?= amd64 arm64

# All times in the packages: that of the commit.
PACKAGE_DATE := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),0)

# The version as both packagers order it: v1.2.3 is 1.2.3, three commits later is
# 1.2.3+3.gabcdef, v1.3.0-rc1 is 1.3.0~rc1, and a checkout without a tag is older
# than every release.
PACKAGE_VERSION ?= $(shell printf '%s\n' '$(or $(VERSION),v0.0.0~git$(shell date -u -d @$(PACKAGE_DATE) +%Y%m%d%H%M%S).$(or $(COMMIT),unknown))' | \
    sed -E 's/^v//; s/-dirty$$/+dirty/; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/-/~/; s/-/./g')

PACKAGE_LDFLAGS := -s -w -X $(MODULE)/version.version=$(VERSION) -X $(MODULE)/version.commit=$(COMMIT)
PACKAGE_STAGE   := $(PACKAGE_DIR)/stage
PACKAGE_DEB     := $(PACKAGE_DIR)/outrider_$(PACKAGE_VERSION)_
PACKAGE_RPM     := $(PACKAGE_DIR)/outrider-$(PACKAGE_VERSION).

.PHONY: package

# The same commit gives the same bytes, wherever it is built: no path, no time, no
# name of the machine, no mode that a umask made gets into them. The binary records
# no state of the checkout by itself; its version and commit are given.
package: $(NFPM) ## deb and rpm for amd64 and arm64 in bin/package, with SBOMs and SHA256SUMS
	@mkdir -p '$(PACKAGE_DIR)'
	@rm -rf '$(PACKAGE_STAGE)' '$(PACKAGE_DIR)'/outrider[-_]* '$(PACKAGE_DIR)'/SHA256SUMS
	@for arch in $(PACKAGE_ARCHS); do \
	    stage='$(PACKAGE_STAGE)'/$$arch; \
	    mkdir -p "$$stage/usr/bin"; \
	    CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -buildvcs=false \
	        -ldflags '$(PACKAGE_LDFLAGS)' -o "$$stage/usr/bin/outrider" .; \
	    CGO_ENABLED=0 $(GO) run -trimpath ./dist/generate -binary "$$stage/usr/bin/outrider" -root "$$stage" \
	        -version '$(PACKAGE_VERSION)' -date '$(PACKAGE_DATE)' \
	        -sbom '$(PACKAGE_DEB)'$$arch.cdx.json; \
	    examples="$$stage/usr/share/doc/outrider/examples"; \
	    mkdir -p "$$examples"; \
	    cp -r dist/root/usr/share/doc/outrider/examples/. "$$examples"; \
	    if [ -d dist/examples ]; then cp -r dist/examples/. "$$examples"; fi; \
	    cp -r dist/grafana dist/prometheus "$$examples"; \
	    find "$$stage/usr/share" -name '*.go' -delete; \
	    find "$$stage" -type d -exec chmod 0755 {} +; \
	    find "$$stage" -type f -exec chmod 0644 {} +; \
	    case $$arch in amd64) rpm=x86_64 ;; arm64) rpm=aarch64 ;; *) rpm=$$arch ;; esac; \
	    for target in deb:'$(PACKAGE_DEB)'$$arch.deb rpm:'$(PACKAGE_RPM)'$$rpm.rpm; do \
	        ARCH=$$arch STAGE="$$stage" PACKAGE_VERSION='$(PACKAGE_VERSION)' SOURCE_DATE_EPOCH='$(PACKAGE_DATE)' \
	            '$(NFPM)' package -f dist/nfpm.yaml -p "$${target%%:*}" -t "$${target#*:}" >/dev/null; \
	        echo "$${target#*:}"; \
	    done; \
	done
	@rm -rf '$(PACKAGE_STAGE)'
	@chmod 0644 '$(PACKAGE_DIR)'/outrider[-_]*
	@cd '$(PACKAGE_DIR)' && LC_ALL=C sha256sum -- outrider[-_]* >SHA256SUMS

# Built aside and renamed: a build that is interrupted leaves no half program.
$(NFPM):
	@mkdir -p '$(CACHE_BIN)'
	@echo "building nfpm $(NFPM_VERSION) once, into $(CACHE_BIN)"
	@tmp=$$(mktemp -d '$(CACHE_BIN)/.nfpm.XXXXXX'); trap 'rm -rf "$$tmp"' EXIT; \
	GOBIN="$$tmp" GOFLAGS= CGO_ENABLED=0 $(GO) install -trimpath -ldflags '-s -w' \
	    github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION); \
	mv -f "$$tmp/nfpm" '$@'
