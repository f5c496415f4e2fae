# `make` lists the targets. Each installs what it lacks (scripts/prerequisites.sh) or says what to install.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# One target at a time: cargo already uses all cores.
.NOTPARALLEL:

# Goes before a command: puts the tools of the cache folder on the PATH.
in_shell := . scripts/common.sh;

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## three real brokers, the deadlock, and what the exporter reports meanwhile
	@scripts/prerequisites.sh build brokers prometheus
	@$(in_shell) cargo build --locked --release
	@$(in_shell) cargo run --locked -p lab -- demo

.PHONY: test
test: lint deny minimum-rust-stated ## everything that a change must pass (real brokers; at most 30 minutes on 2 cores)
	@scripts/prerequisites.sh build brokers new-java prometheus yamllint
	@scripts/run-tests.sh

.PHONY: build
build: ## the exporter, optimised: target/release/kafka-vitals
	@scripts/prerequisites.sh build
	@$(in_shell) cargo build --locked --release

.PHONY: static
static: ## the exporter as one file that needs nothing from its host (musl): dist/ARCHITECTURE/kafka-vitals
	@scripts/prerequisites.sh build "$$($(in_shell) echo "static-$$(architecture)")"
	@scripts/build-static.sh

.PHONY: dist
dist: ## all that is released, into dist/: programs, packages and image for two processors, checksums
	@scripts/prerequisites.sh build static-amd64 static-arm64 dist
	@scripts/dist.sh

.PHONY: reproducible
reproducible: ## `make dist` of this commit in two folders, compared byte for byte (by hand: half an hour)
	@scripts/prerequisites.sh build static-amd64 static-arm64 dist
	@scripts/reproducible.sh

.PHONY: manifests
manifests: ## kubernetes/ against the schemas of Kubernetes and of the Prometheus operator, the workflow by actionlint
	@scripts/prerequisites.sh build manifests
	@scripts/check-manifests.sh

.PHONY: package-test
package-test: ## install, run beside a real broker, upgrade and purge the packages of `make dist` in a booted Debian (root)
	@scripts/prerequisites.sh build brokers package-test
	@scripts/package-test.sh

.PHONY: image-test
image-test: ## the image of `make dist` by podman beside a real broker in a container: everything is known (root)
	@scripts/prerequisites.sh build brokers package-test image-test
	@scripts/image-test.sh

.PHONY: kubernetes
kubernetes: ## the DaemonSet's pod on a real node (kubelet, containerd) beside a real broker in a pod, scraped (root, by hand)
	@scripts/prerequisites.sh build brokers prometheus static-amd64 dist image-test kubernetes manifests
	@scripts/kubernetes.sh

.PHONY: lint
lint: ## rustfmt, clippy without a warning, the map of the code, its documentation, the scripts, the unit
	@scripts/prerequisites.sh build lint delivery-lint
	@scripts/test-scripts.sh
	@scripts/check-delivery.sh
	@$(in_shell) cargo fmt --all --check
	@$(in_shell) cargo clippy --workspace --all-targets --locked -- -D warnings
# --all-targets leaves out a test target with `test = false` (qualify).
	@$(in_shell) cargo clippy --workspace --test '*' --locked -- -D warnings
	@$(in_shell) cargo test --locked --test map
	@$(in_shell) RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --lib

.PHONY: deny
deny: ## licences, sources, duplicates of the dependencies (cargo-deny)
	@scripts/prerequisites.sh build deny
	@$(in_shell) cargo deny --locked check bans licenses sources

.PHONY: advisories
advisories: ## known vulnerabilities of the dependencies (by git, or ADVISORY_DB=FOLDER: an unpacked RustSec advisory-db)
	@scripts/prerequisites.sh build deny
	@scripts/advisories.sh

.PHONY: minimum-rust-stated
minimum-rust-stated:
	@scripts/prerequisites.sh build
	@scripts/check-minimum-rust.sh

.PHONY: minimum-rust
minimum-rust: ## compile with the minimum Rust (gets it by rustup)
	@scripts/prerequisites.sh build
	@scripts/check-minimum-rust.sh --install

.PHONY: qualify
qualify: ## the tests that take too long for CI: run by hand, before a release
	@scripts/prerequisites.sh build brokers new-java old-java oldest-java prometheus
# The shipped build: an unoptimised one costs more CPU, so its rounds stretch and detection comes later.
	@$(in_shell) cargo test --release --workspace --locked --no-fail-fast --test qualify -- --nocapture --test-threads=1 --skip soak::
	@scripts/page-pictures.sh target/pictures golden=tests/golden/page.html

.PHONY: zoo
zoo: ## every kind of half-dead broker, and what is found when: docs/zoo.md (100 minutes; KAFKA_VITALS_ZOO=NAME,NAME: these rows)
	@scripts/prerequisites.sh build brokers
	@$(in_shell) cargo build --locked --release
	@$(in_shell) cargo run --locked -p lab -- zoo --table docs/zoo.md $${KAFKA_VITALS_ZOO:---healthy 10}

.PHONY: soak
soak: ## half an hour of trouble and attacks at once; prints the table of docs/reliability.md
	@scripts/prerequisites.sh build brokers
	@$(in_shell) cargo test --release --workspace --locked --test qualify -- --nocapture soak::

.PHONY: pictures
pictures: ## redraw docs/pictures from the pages of the last `make test` (gets Chromium by apt, axe by npm)
	@scripts/page-pictures.sh docs/pictures gray=target/tmp/page-gray.html healthy=target/tmp/page-healthy.html

.PHONY: bench
bench: ## measure the speed, compared with the floor and the tools people use
	@scripts/prerequisites.sh build brokers
# A missing tool to compare with is reported as skipped.
	@scripts/prerequisites.sh node-exporter || true
	@$(in_shell) cargo bench --workspace --locked --bench '*'

.PHONY: fuzz
fuzz: ## fuzz every parser of bytes from outside, 5 minutes each
	@scripts/prerequisites.sh build
	@scripts/fuzz.sh

.PHONY: docs
docs: ## rewrite docs/metrics.md and the golden files from the code; then read the diff
	@scripts/prerequisites.sh build
	@$(in_shell) KAFKA_VITALS_REFRESH=1 cargo test --workspace --locked golden
	@git status --short

.PHONY: clean-cache
clean-cache: ## remove the tools that were fetched (not cargo's folders, not the brokers' jars)
	@$(in_shell) rm -rf "$$cache"; say "removed $$cache"
