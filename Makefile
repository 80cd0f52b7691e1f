# Everything here works on a Debian machine that has git, make, rustup and root or sudo. What is missing is installed,
# and named before it is; what is there is left alone, so a second run starts at once.

# Arguments for the benchmark, and the name of its binary.
BENCH ?= baton-bench
BENCH_ARGS ?=

# The host is always built with the whole workspace in view, so that `run`, `test` and `bench` ask for the same crate
# features and wasmtime is compiled once. One profile serves all three for the same reason.
BUILD_HOST = cargo build --release --workspace --bin baton

# The functions in plugins/, by folder name, and the same as arguments for cargo.
PLUGINS := $(patsubst plugins/%/Cargo.toml,%,$(wildcard plugins/[a-z]*/Cargo.toml))
EACH_PLUGIN = $(addprefix --package ,$(PLUGINS))
# The simulation is a workspace of its own, built into the same place.
SIM = --release --manifest-path tests/sim/Cargo.toml --target-dir $(dir $(shell .ci/built baton-sim --path))..
# The guests that tests alone need; they stay in the target folder.
GUESTS = --package hostile --package foreign --package nested --package http-guest --package scratch-guest --package witness-guest --package clerk-guest --package saga-guest --package steps-guest
# What `wasmtime serve` runs in the benchmark. It does without the standard library, which the others bring in if they are
# built along with it.
HTTP_ECHO = --package http-echo
BUILD_GUESTS = cargo build --profile guest --target wasm32-wasip2 $(GUESTS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint schema plugins guests bench bench-peers faults sim mutants hostile soak fuzz audit setup setup-lint setup-bench setup-peers setup-faults setup-fuzz host fmt clean
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@echo 'make <target>, where <target> is one of'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | awk -F '|' '{ printf "%-11s %s\n", $$1, $$2 }'

run: host plugins ## start Baton on this folder, make a first call and show its answer (RUN_ONCE=1: then stop)
	@.ci/first-run

test: setup-faults host plugins guests ## every test, each on a redis-server of its own where it needs one, and the examples in the code
	@echo '==> python3: the tests of the checker that judges the fault suite'
	@python3 -m unittest discover --start-directory tests/faults --quiet
	@echo '==> cargo test: unit tests, suites and examples in the code, for the whole workspace'
	@cargo test --release --workspace --no-fail-fast
	@echo '==> cargo test: the protocol core on virtual time'
	@cargo test $(SIM)

schema: ## write the JSON schemas in docs/schema from the types, after a change of the manifest or of tenant.toml
	@rm -rf target/schema; cargo test --release --workspace --lib --quiet -- the_schemas_in_docs_are_those_of_the_types >/dev/null || true
	@cp target/schema/*.json docs/schema/

lint: setup-lint ## formatting, clippy for the host and the functions, layers, dependencies, documentation
	@echo '==> cargo fmt'
	@cargo fmt --all --check
	@cargo fmt --manifest-path tests/sim/Cargo.toml --check
	@echo '==> layers'
	@.ci/layers
	@echo '==> cargo clippy, for this machine'
	@cargo clippy --quiet --release --workspace --all-targets -- -D warnings
	@cargo clippy --quiet $(SIM) --all-targets -- -D warnings
	@cargo clippy --quiet --release --workspace --bin baton --features baton/mutants -- -D warnings
	@echo '==> cargo clippy, for functions (wasm32-wasip2)'
	@cargo clippy --quiet --profile guest --target wasm32-wasip2 $(EACH_PLUGIN) $(GUESTS) -- -D warnings
	@cargo clippy --quiet --profile guest --target wasm32-wasip2 $(HTTP_ECHO) -- -D warnings
	@echo '==> cargo doc'
	@RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --release --workspace --no-deps
	@echo '==> cargo deny'
	@cargo deny --log-level error check bans licenses sources
	@cargo deny --log-level error --manifest-path tests/sim/Cargo.toml --config deny.toml check --allow license-not-encountered bans licenses sources

plugins: setup ## build the functions in plugins/*/ and put each NAME.wasm into plugins/
	@.ci/plugins $(PLUGINS)

guests: setup ## build the guests that the tests need, the hostile ones among them
	@echo '==> building the guests of the tests'
	@$(BUILD_GUESTS)

bench: setup-bench host plugins guests ## measure, print a table and write JSON (BENCH_ARGS='...' is handed on)
	@echo '==> building $(BENCH)'
	@cargo build --release --workspace --bin $(BENCH)
	@.ci/built $(BENCH) $(BENCH_ARGS)

bench-peers: setup-peers host plugins ## the same for Baton beside BullMQ, a plain Streams worker and wasmtime serve
	@echo '==> building $(BENCH) and the guest for wasmtime serve'
	@cargo build --profile guest --target wasm32-wasip2 $(HTTP_ECHO)
	@cargo build --release --workspace --bin $(BENCH)
	@.ci/built $(BENCH) peers $(BENCH_ARGS)

SEED ?= 1
CALLS ?=
FAULTS_ARGS ?=
faults: setup-faults host plugins guests ## break everything under 10,000 calls for ten minutes and check what became of each (SEED=1 CALLS=10000, FULL=1: longer)
	@echo '==> building baton-faults'
	@cargo build --release --workspace --bin baton-faults
	@.ci/built baton-faults --seed $(SEED) $(if $(CALLS),--calls $(CALLS)) $(if $(FULL),--tier full) $(FAULTS_ARGS)

hostile: host plugins guests ## run every hostile guest, measure it, and write the table in docs/security.md
	@BATON_HOSTILE_TABLE=1 cargo test --quiet --release --workspace --test hostile -- --nocapture hostile_guests_one_kind_after_the_other

soak: host plugins guests ## reloads and calls for some minutes (FULL=1: 10,000 and 1,000,000), and a host that does not grow
	@BATON_SOAK=1 BATON_FULL=$(FULL) cargo test --quiet --release --workspace --test hostile -- --nocapture a_host_does_not_grow

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
fuzz: setup-fuzz ## feed rubbish to what parses bytes from outside (FUZZ_SECONDS=60 each, FUZZ_TARGETS='entries …')
	@.ci/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

audit: setup-lint ## compare Cargo.lock with the advisories of RustSec, which needs the network
	@.ci/audit

fmt: ## format the code
	@cargo fmt --all
	@cargo fmt --manifest-path tests/sim/Cargo.toml

setup: ## install what is missing to build and run: a C compiler, redis-server, curl, the wasm target
	@.ci/setup

clean: ## remove what was built here; the data in .baton and components from elsewhere stay
	@cargo clean
	@rm -f $(PLUGINS:%=plugins/%.wasm)
	@rm -rf tests/bench/peers/node_modules

# Here a number of its own: SEED= shows that one world, and SEEDS= says how many are run.
SIM_ARGS = $(if $(filter command line environment,$(origin SEED)),--seed $(SEED),--seeds $(or $(SEEDS),20000)) $(if $(MUTANT),--mutant $(MUTANT))
sim: setup ## run the protocol core on virtual time, thousands of seeds a minute (SEEDS=20000; SEED=7: tell what happens in that one)
	@echo '==> building baton-sim'
	@cargo build --quiet $(SIM)
	@.ci/built baton-sim $(SIM_ARGS)

mutants: host plugins guests ## take one rule after the other out of the host, and see that a suite misses it (RULES='fence …')
	@.ci/mutants $(RULES)

# Not in the list: steps of the others.
setup-lint:
	@.ci/setup --lint

setup-bench:
	@.ci/setup --bench

setup-faults:
	@.ci/setup --faults

setup-peers:
	@.ci/setup --peers

setup-fuzz:
	@.ci/setup --fuzz

host: setup
	@echo '==> building the host (the first time wasmtime is compiled too, which takes some minutes)'
	@$(BUILD_HOST)
