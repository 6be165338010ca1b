# What can be done here: `make help`. Everything works on a fresh Debian; the only thing that it does not install itself
# is Rust (see README.md).

SHELL := /bin/bash
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

CARGO := cargo
# .cargo/config.toml builds for the machine's own target by name, so that the program lies in that target's folder.
TARGET = $(shell $(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
BINARY = $(TARGET)/$(HOST)/release/mesh-init
PATCH = $(TARGET)/$(HOST)/release/mesh-patch
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
VERSION = $(shell $(CARGO) pkgid | sed 's/.*[#@]//')
# The name that `make image` gives to the image.
IMAGE = localhost/mesh-init:$(VERSION)

# Network namespaces and the packet filter are root's.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
# What makes cargo start test programs by sudo.
RUNNER = $(if $(SUDO),CARGO_TARGET_$(shell echo $(HOST) | tr 'a-z-' 'A-Z_')_RUNNER='$(SUDO)')

.PHONY: help build image pods policies demo test guests fuzz bench check clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

build: ## Build the static programs
	@tests/setup.sh build
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --features manifest --bin mesh-patch

image: ## Pack it into an image by buildah, podman or docker, without a registry (IMAGE=NAME)
	@tests/setup.sh image
	$(CARGO) build --release --locked
	@image/build.sh "$(BINARY)" "$(IMAGE)" "$(VERSION)"

# It asks for sudo itself, behind what needs no root.
pods: ## Real pods: patched manifests under podman with real Envoys, and the image's entry points
	@tests/setup.sh pods
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --features manifest --bin mesh-patch
	@tests/pods.sh "$(BINARY)" "$(PATCH)" "$(TARGET)/envoy" "$(TARGET)/pods"

policies: ## The admission policies, evaluated without a cluster and compared with mesh-patch
	@tests/setup.sh policies
	$(CARGO) build --release --locked --features manifest --bin mesh-patch
	@"$(TARGET)/kubernetes-validate/bin/python" tests/policies.py "$(PATCH)"

demo: ## Show it at work: rules into a throw-away namespace, checked, with real connections, and out again
	@tests/setup.sh demo
	$(CARGO) build --release --locked
	@$(SUDO) tests/demo.sh "$(BINARY)"

# Each test program is started by root; cargo itself, and what it writes, stays the user's.
test: ## Run all tests (those that need root ask sudo for it)
	@tests/setup.sh test
	$(CARGO) build --release --locked
	$(RUNNER) $(CARGO) test --locked
	$(RUNNER) $(CARGO) test --locked --features iptables-command --lib --test command
	$(RUNNER) $(CARGO) test --locked --features manifest --lib --test patch

# No root is needed, nor anything that the machine's own kernel has. The kernel stays in the build's folder until `make clean`.
guests: ## Try it on other kernels: virtual machines that lack one packet filter or another
	@tests/setup.sh build
	$(CARGO) build --release --locked
	@set -e; checks=$$($(CARGO) test --locked --test guests --no-run --message-format json | sed -n 's/.*"executable":"\([^"]*\/guests-[^"]*\)".*/\1/p'); \
		tests/guests.sh "$(BINARY)" "$$checks" "$(TARGET)/guests"

# cargo-fuzz needs compiler flags that a stable compiler takes only so. What is found goes to a folder beside the build, from
# where the next run goes on; `make test` runs tests/fuzz/corpus.
fuzz: ## Feed the decoders of the kernel's answers with any bytes, a minute each
	@tests/setup.sh fuzz
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	@set -e; for target in $$($(CARGO) fuzz list --fuzz-dir tests/fuzz); do \
		mkdir -p "$(TARGET)/fuzz/found/$$target"; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir tests/fuzz --target $(HOST) --target-dir "$(TARGET)/fuzz" "$$target" \
			"$(TARGET)/fuzz/found/$$target" "tests/fuzz/corpus/$$target" -- -max_total_time=60 -timeout=10 -max_len=4096; \
	done

bench: ## Measure it beside iptables-restore
	@tests/setup.sh bench
	$(CARGO) build --release --locked
	@$(SUDO) tests/bench.sh "$(BINARY)"

check: ## Format, lints, documentation
	@tests/setup.sh check
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) clippy --all-targets --all-features --locked -- -D warnings
	$(CARGO) clippy --test guests --locked -- -D warnings
	$(CARGO) rustc --lib --profile check --locked -- --cfg fuzzing -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --locked

clean: ## Remove what was built
	$(CARGO) clean
