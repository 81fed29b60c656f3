# Two commands do everything from a clean clone: `make demo` and `make test`. Needed: git, make, python3 >= 3.11 with venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev demo lint types test test-full check scenarios matrix simulate-full mutants bench-heartbeat bench-mass bench-detection bench-remote bench-hostile bench-fencing lab-up lab-down lab-status test-nova clean

# The distribution's own Python where it can make an environment: it is what operators run, built with all its optimisations.
PYTHON ?= $(shell for each in /usr/bin/python3 python3; do \
    $$each -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; done; echo $$each)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --retries 5
JOBS ?= $(shell nproc)
# Each pytest run appends what it left out, and why; `make` prints it last.
NOT_RUN := build/not-run
PYTEST := HA_AGENT_NOT_RUN=$(CURDIR)/$(NOT_RUN) $(BIN)/python -m pytest
# Fast tests run side by side; integration tests measure real time, so they run one after the other.
FAST := $(wildcard tests/unit tests/property tests/scenarios tests/simulation tests/mutants)
SLOW := $(wildcard tests/integration tests/benchmarks)

help:
	@echo 'make demo        a hypervisor dies, its instances live on: the whole path, on loopback, no root'
	@echo 'make test        lint, types and tests (as root also those that need Debian packages); it names those that it left out, as too long for CI'
	@echo 'make check       for daily work: lint, types, unit, scenarios, a little simulation'
	@echo 'make test-full   everything, also what takes too long for CI; keeps its result in docs/test-full.txt'
	@echo 'make scenarios [UPDATE=1]   replay the scenarios; UPDATE=1 rewrites the expected logs'
	@echo 'make matrix [EACH=50 FIRST=1]   every fault at every step of the plans, in a simulated cloud'
	@echo 'make simulate-full   ten times that, and lives of clouds; keeps its result in docs/simulate-full.txt'
	@echo 'make mutants [SAMPLE=40 SEED=1]   small mistakes in the rules, one at a time: do the tests notice?'
	@echo 'make bench-heartbeat [HOSTS="1000 2000 5000"]   what thousands of hosts cost, and how soon the dead are found'
	@echo 'make bench-mass [HOSTS="200 1000 2000"] [SERVERS="500 1000"]   what a big loss costs the event loop: commits, the longest turn'
	@echo 'make bench-remote    what a remote costs its hypervisor: memory, CPU, descriptors'
	@echo 'make bench-hostile   what a controller notices of floods of hostile connections'
	@echo 'make bench-fencing [SIZES="1 10 50 200"]   many hosts switched off at once while some BMCs hang, beside ipmitool and fence_ipmilan'
	@echo 'make bench-detection   who is fenced in vain and how soon the dead are found, beside other detectors, on simulated bad hours'
	@echo 'make lab-up [HOSTS=4]   a real Nova on this machine, with hypervisors whose guests are files (root; lab-status, lab-down)'
	@echo 'make test-nova   hosts of a real Nova die and come back; uses the lab that is up, else one of its own (root)'
	@echo 'make clean       remove .venv, caches and build files'

# --- setting up --------------------------------------------------------------------------------------------------------

setup: .venv/.stamp-run
setup-dev: .venv/.stamp-dev

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo 'error: $(PYTHON) not found; install python3 (3.11 or newer)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: $$($(PYTHON) --version) is too old; Python 3.11 or newer is needed (make PYTHON=python3.11 …)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	    || { echo 'error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv' >&2; exit 1; }
	@echo 'setting up: .venv'
	@$(PYTHON) -m venv .venv

.venv/.stamp-run: pyproject.toml | .venv/bin/python
	@echo 'setting up: ha-agent and its libraries'
	@$(PIP) -e . || { echo 'error: pip could not install the libraries; is a package index reachable?' >&2; exit 1; }
	@touch $@

.venv/.stamp-dev: pyproject.toml | .venv/bin/python
	@echo 'setting up: ha-agent, its libraries and the tools for tests'
	@$(PIP) -e '.[dev]' || { echo 'error: pip could not install the libraries; is a package index reachable?' >&2; exit 1; }
	@touch .venv/.stamp-run $@

# --- using it ----------------------------------------------------------------------------------------------------------

demo: setup
	@$(BIN)/ha-agent demo $(ARGS)

# --- checking it -------------------------------------------------------------------------------------------------------

lint: setup-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup-dev
	@$(BIN)/mypy

# Sub-makes keep the order (cheap checks first) and end with the list of what was not run, even under `make -j`.
test: setup-dev
	@mkdir -p build && rm -f $(NOT_RUN)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@if [ "$$(id -u)" = 0 ] && [ -z "$${HA_AGENT_NO_ROOT:-}" ]; then $(BIN)/python -m tests.integration.debian install; fi
	@$(PYTEST) -q -n $(JOBS) --dist worksteal $(FAST)
	@$(MAKE) --no-print-directory matrix
	@$(BIN)/python -m tests.mutants --sample 40 --jobs $(JOBS) --quiet
	@$(PYTEST) -q $(SLOW)
	@$(BIN)/python -m tests.not_run $(NOT_RUN)

check: setup-dev
	@mkdir -p build && rm -f $(NOT_RUN)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(PYTEST) -q -n $(JOBS) --dist worksteal $(FAST)

# Kept under docs/ without paths of this machine; on failure the kept result stays as it was.
test-full: setup-dev
	@mkdir -p build && rm -f $(NOT_RUN)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@if [ "$$(id -u)" = 0 ] && [ -z "$${HA_AGENT_NO_ROOT:-}" ]; then $(BIN)/python -m tests.integration.debian install; fi
	@{ echo "make test-full, $$(date -u +%F), commit $$(git describe --always --dirty), $$($(BIN)/python --version), $$(nproc) cores"; \
	   $(PYTEST) -q --full -n $(JOBS) --dist worksteal $(FAST) && \
	   $(PYTEST) -q --full --durations=10 $(SLOW) && \
	   $(BIN)/python -m tests.not_run $(NOT_RUN); } 2>&1 | sed -u -e 's|$(CURDIR)|.|g' | tee build/test-full.txt
	@cp build/test-full.txt docs/test-full.txt
	@echo 'kept in docs/test-full.txt'

scenarios: setup-dev
	@HA_AGENT_UPDATE_SCENARIOS=$(UPDATE) $(PYTEST) -q tests/scenarios

# Every fault at every step of the plans; what is short or broken is told, the whole is kept in build/.
matrix: setup-dev
	@mkdir -p build
	@$(BIN)/ha-agent simulate --matrix $(or $(EACH),50) --first-seed $(or $(FIRST),1) --jobs $(JOBS) > build/matrix.txt \
	    || { cat build/matrix.txt; exit 1; }
	@echo "matrix: $$(tail -1 build/matrix.txt)"

# Ten times the matrix, and lives of clouds; what came of it is kept under docs/, but for a run of another size.
simulate-full: setup-dev
	@mkdir -p build
	@{ echo "make simulate-full, $$(date -u +%F), commit $$(git describe --always --dirty), $$($(BIN)/python --version), $$(nproc) cores"; \
	   $(BIN)/ha-agent simulate --matrix $(or $(EACH),500) --first-seed $(or $(FIRST),100000) --jobs $(JOBS) && \
	   $(BIN)/ha-agent simulate --seeds $(or $(LIVES),2000) --first-seed $(or $(FIRST),100000) --json; } > build/simulate-full.txt \
	    || { cat build/simulate-full.txt; exit 1; }
	@$(if $(EACH)$(LIVES),,cp build/simulate-full.txt docs/simulate-full.txt)
	@echo 'kept in $(if $(EACH)$(LIVES),build,docs)/simulate-full.txt'

mutants: setup-dev
	@$(BIN)/python -m tests.mutants --sample $(or $(SAMPLE),0) --seed $(or $(SEED),0) --jobs $(JOBS)

# Thousands of real connections on loopback, beside a plain UDP listener; a busy machine spoils the figures, so nothing else should run.
bench-heartbeat: setup-dev
	@$(BIN)/python -m tests.benchmarks.heartbeat --hosts $(or $(HOSTS),1000 2000 5000) --keep docs/bench-heartbeat.txt

# On the disk that holds build/, which should be a real one.
bench-mass: setup-dev
	@$(BIN)/python -m tests.benchmarks.mass --hosts $(or $(HOSTS),200 1000 2000) --servers $(or $(SERVERS),500 1000)

bench-remote: setup-dev
	@$(BIN)/python -m tests.benchmarks.remote --seconds $(or $(SECONDS_EACH),60) --keep docs/bench-remote.txt

bench-hostile: setup-dev
	@$(BIN)/python -m tests.benchmarks.hostile --seconds $(or $(SECONDS_EACH),10) --keep docs/bench-hostile.txt

bench-fencing: setup-dev
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.integration.debian install; fi
	@$(BIN)/python -m tests.benchmarks.fencing --sizes $(or $(SIZES),1 10 50 200) $(if $(SIZES),,--keep docs/bench-fencing.txt)

# In virtual time, the same figures on every machine; about five minutes on two cores.
bench-detection: setup-dev
	@$(BIN)/python -m tests.benchmarks.detection --share $(or $(SHARE),1) --first-seed $(or $(FIRST),1) --jobs $(JOBS) $(if $(SHARE)$(FIRST),,--keep docs/bench-detection.txt)

# --- a real Nova -------------------------------------------------------------------------------------------------------

lab-up: setup-dev
	@HOSTS=$(or $(HOSTS),4) $(BIN)/python -m tests.integration.nova up

lab-down: setup-dev
	@$(BIN)/python -m tests.integration.nova down

lab-status: setup-dev
	@$(BIN)/python -m tests.integration.nova status

test-nova: setup-dev
	@$(PYTEST) -q -m 'full or not full' --durations=10 tests/integration/nova

clean:
	@rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
