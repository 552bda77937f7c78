# Everything a user or a developer of Grizz does. Works with GNU make 3.81 and newer, and from any path.

# Any Python from 3.11 on; `make run PYTHON=/path/to/python` takes another one.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
RUN := .venv/.run
DEV := .venv/.dev
LOCAL := .venv/.local
# Its own environment: what Grizz is measured against wants other versions than Grizz.
PEERS := .venv-peers/.peers

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Set in many container images; here it would compile every module anew at each of several hundred starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: alerts help venv run run-local test test-deploy test-local lint fmt bench bench-compare bench-peers cost kills autobahn fuzz config lock clean edges chaos codex

help: ## show this list
	@echo 'Grizz streams AI answers. To try it without any key: make run ARGS=--demo'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

venv: $(RUN) ## create .venv with what running needs

run: $(RUN) ## start the server; flags in ARGS, as in make run ARGS="--demo --port 0"
	@$(BIN)/python grizz.py $(ARGS)

run-local: $(LOCAL) ## start it with a small real model on this machine (130 MB); ARGS="--model-file FILE.gguf" for another
	@$(BIN)/python grizz.py --local $(ARGS)

test: $(DEV) ## run the tests; TESTS="tests/unit -k config" runs some of them
	@$(BIN)/python -m pytest -q -n 8 --dist worksteal $(or $(TESTS),--ignore=tests/deploy)

test-deploy: $(DEV) ## run the tests of deploy/, with Prometheus, nginx, Caddy and HAProxy where they are installed
	@$(BIN)/python -m pytest -q -n 6 --dist worksteal tests/deploy $(TESTS)

test-local: $(DEV) $(LOCAL) ## run the tests that need a real local model
	@$(BIN)/python -m pytest -q -m local_model $(TESTS)

lint: $(DEV) ## check format, style, types and the direction of imports
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports

fmt: $(DEV) ## format the code and mend what can be mended safely
	@$(BIN)/python -m ruff check --fix --exit-zero --quiet .
	@$(BIN)/python -m ruff format .

bench: $(DEV) ## measure speed, beside the least that Python can do (20 minutes)
	@$(BIN)/python -m benchmarks.speed $(ARGS)

bench-compare: $(RUN) ## compare two results of bench: ARGS="OLD.json NEW.json"
	@$(BIN)/python -m benchmarks.speed.compare $(ARGS)

bench-peers: $(DEV) $(PEERS) ## measure it beside LiteLLM, Socket.IO and the old design (500 MB, once)
	@$(BIN)/python -m benchmarks.speed --peers $(ARGS)

edges: $(RUN) ## measure the limits: idle and stalled clients, a stop, lag, memory
	@$(BIN)/python -m benchmarks.edges $(ARGS)

cost: $(DEV) ## count what Grizz sends to Redis, beside other designs
	@$(BIN)/python benchmarks/redis_cost.py $(ARGS)

alerts: $(DEV) ## break it under load, and see which alert a real Prometheus raises (8 minutes)
	@$(BIN)/python -m benchmarks.alerts $(ARGS)

kills: $(DEV) ## kill processes a hundred times under load; nothing may be lost
	@$(BIN)/python benchmarks/kills.py $(ARGS)

autobahn: $(DEV) ## run all of Autobahn's WebSocket cases against this server
	@$(BIN)/python -m tests.conformance.autobahn $(ARGS)

codex: $(DEV) ## run the Codex CLI from npm against this server (400 MB, once)
	@E2E_CODEX=1 $(BIN)/python -m pytest -q tests/e2e/test_codex.py $(ARGS)

fuzz: $(DEV) ## send random input to all that parses; FUZZ_EXAMPLES=5000 per property
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} $(BIN)/python -m pytest -q -n 6 --dist worksteal tests/fuzz $(ARGS)

chaos: $(DEV) ## hurt it in every way while answers stream; nothing may be lost, doubled, hung or wrong
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

config: $(RUN) ## write config.toml anew from the declared settings
	@$(BIN)/python -c 'from grizz.config import default_toml; print(end=default_toml())' > config.toml

# The same pins in the first two files; for every platform, so that no machine needs a file of its own.
COMPILE := uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

lock: ## pin the newest allowed versions of all that make installs (needs uv)
	@command -v uv >/dev/null || { echo 'make lock needs uv: pip install uv' >&2; exit 1; }
	@$(COMPILE) pyproject.toml --upgrade --output-file requirements.lock
	@$(COMPILE) pyproject.toml --upgrade --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@cd tests/e2e/python && $(COMPILE) requirements.in --upgrade --output-file requirements.lock
	@$(COMPILE) requirements-local.in --upgrade --no-deps --output-file requirements-local.lock
	@cd benchmarks/peers && $(COMPILE) requirements.in --upgrade --output-file requirements.txt

clean: ## remove .venv, caches and build output
	@rm -rf .venv .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made .venv (Debian's python3 without python3-venv leaves one) is removed, not kept for the next try.
$(BIN)/python:
	@test -n '$(PYTHON)' && '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Grizz needs Python 3.11 or newer; found: $$('$(or $(PYTHON),python3)' --version 2>&1 || echo none)." >&2; \
		echo 'Name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11' >&2; exit 1; }
	@if command -v uv >/dev/null; then uv venv --quiet --clear --python '$(PYTHON)' .venv; \
		else '$(PYTHON)' -m venv --clear .venv; fi || { \
		rm -rf .venv; \
		echo 'Could not create .venv. On Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }

# Only ready-made packages where the server runs; a few tools for tests come as plain Python source.
$(RUN): INSTALL_FLAGS := --only-binary :all:
$(LOCAL): INSTALL_FLAGS := --only-binary :all: --no-deps
$(RUN): requirements.lock
$(DEV): requirements-dev.lock
$(LOCAL): requirements-local.lock | $(RUN)
$(RUN) $(DEV) $(LOCAL): | $(BIN)/python
	@echo 'Installing $< into .venv'
	@if command -v uv >/dev/null; then \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(INSTALL_FLAGS) -r $<; \
		else $(BIN)/python -m pip install --quiet --require-hashes $(INSTALL_FLAGS) -r $<; fi
	@touch $@

# Made anew at every change: nothing of an older set stays.
$(PEERS): benchmarks/peers/requirements.txt | $(BIN)/python
	@echo 'Installing $< into .venv-peers'
	@if command -v uv >/dev/null; then \
		uv venv --quiet --clear --python $(BIN)/python .venv-peers && \
		uv pip install --quiet --python .venv-peers/bin/python --require-hashes --only-binary :all: -r $<; \
		else $(BIN)/python -m venv --clear .venv-peers && \
		.venv-peers/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r $<; fi
	@touch $@
