# The targets need make and Python 3.11 or newer, and Node for test-node. The rest is installed into .venv: for `make run`
# the packages that it needs, for the other targets all packages. Written for GNU make 3.81, which macOS has.

PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
READY_TO_RUN := $(VENV)/ready-to-run
YAML := $(wildcard .github manifests compose.yaml)
YAML_RULES := {extends: default, rules: {line-length: {max: 120}, document-start: disable, \
	truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}}}
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
# Errors only: a warning about a setting of pip is no concern of a newcomer.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement

.DEFAULT_GOAL := help
.PHONY: help run test test-nodes test-fallback test-node test-fuzz test-root test-system test-start test-image chaos volume bench lint lint-manifests format \
	migrate seed requirements clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY_TO_RUN) ## Start the server, with a database of its own unless CHAT_DATABASE_URL is set
	@exec $(BIN)/python -m chat_app run $(ARGS)

test: $(READY) ## Run the tests; ARGS go to pytest
	@exec $(BIN)/python -m pytest -n auto $(ARGS)

test-nodes: $(READY) ## Run the tests of Socket.IO on three nodes, each user on another one than the last; ARGS go to pytest
	@exec $(BIN)/python -m pytest -n auto --three-nodes $(ARGS) tests/live

test-fallback: $(READY) ## Run the tests of Socket.IO with WebSockets served by the libraries alone; ARGS go to pytest
	@exec $(BIN)/python -m pytest -n auto --fallback $(ARGS) tests/live tests/test_bad_packets.py

test-node: $(READY) ## Test the Socket.IO contract with the official JavaScript client
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "Node 20 or newer is needed, with npm" >&2; exit 1; }
	@npm ci --silent --prefix tests/node
	@cd tests/node && exec node --test

test-fuzz: $(READY) ## Send generated requests and commands to a fresh server, for some minutes
	@exec $(BIN)/python -m pytest -m fuzz $(ARGS) tests/test_fuzz.py

test-root: $(READY) ## Run the tests that need root
	@exec $(BIN)/python -m pytest -m "root and not system" $(ARGS)

test-system: $(READY) ## Crash, freeze, roll and restore a system of real processes for some minutes; needs root for full disks
	@exec $(BIN)/python -m pytest -m system $(ARGS) tests/system tests/volume

test-start: ## Install and start the service in a copy of this folder, and print the seconds; ARGS=--cold without caches
	@exec python3 -m tests.start $(ARGS)

test-image: $(READY) ## Run the Dockerfile and compose.yaml without a container engine, with faults; needs Linux, root and caddy
	@[ "$$(id -u)" = 0 ] || { echo "This needs root; with a container engine try: docker compose up --build" >&2; exit 1; }
	@command -v caddy >/dev/null || { echo "caddy is needed, the proxy of compose.yaml" >&2; exit 1; }
	@exec unshare --mount --propagation private $(BIN)/python -m tests.image

chaos: $(READY) ## Break nodes, bus, database and network under load and judge what clients saw; ARGS="--help" lists the faults
	@exec $(BIN)/python -m tests.chaos $(ARGS)

volume: $(READY) ## Run races, malformed packets, odd pictures and generated requests in any number; ARGS="removals=10000 --seed 7" chooses
	@exec $(BIN)/python -m tests.volume $(ARGS)

bench: $(READY) ## Measure the service beside a plain Node server or another revision; ARGS="W1 W2 --beside HEAD" chooses
	@exec $(BIN)/python -m tests.bench $(ARGS)

lint: $(READY) ## Check style, types, the layers of the imports, YAML, Dockerfile and workflows
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "Not formatted: run make format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/yamllint --strict -d '$(YAML_RULES)' $(YAML)
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/actionlint .github/workflows/*.yml
	@$(BIN)/zizmor --offline --quiet .github
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python -m tests.code_lines

lint-manifests: $(READY) ## Check the manifests for Kubernetes, test the alerts; needs kubectl and promtool
	@command -v kubectl >/dev/null || { echo "kubectl is needed: it builds the manifests" >&2; exit 1; }
	@command -v promtool >/dev/null || { echo "promtool is needed: it is in the package prometheus" >&2; exit 1; }
	@validate() { \
		found=$$($(BIN)/kubernetes-validate --strict --quiet - 2>&1 | grep -vE 'kind (HTTPRoute|PodMonitor|PrometheusRule)'); \
		[ -z "$$found" ] || { echo "$$1: $$found" >&2; return 1; }; \
	}; \
	validate namespace <manifests/namespace.yaml || exit 1; \
	for folder in manifests/overlays/* manifests/components/*; do \
		built=$$(kubectl kustomize $$folder) || exit 1; \
		echo "$$built" | validate $$folder || exit 1; \
	done
	@$(BIN)/python -m tests.promtool

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

migrate: $(READY) ## Migrate the database to the newest revision
	@exec $(BIN)/python -m chat_app migrate

seed: $(READY) ## Write the demo data
	@exec $(BIN)/python -m chat_app seed

requirements: $(READY) ## Compile all requirements anew from pyproject.toml; ARGS=--upgrade for newer versions
	@$(BIN)/$(COMPILE) $(ARGS) --extra run --extra dev --extra tracing pyproject.toml -o requirements-dev.txt
	@$(BIN)/$(COMPILE) -c requirements-dev.txt --extra tracing pyproject.toml -o requirements.txt
	@$(BIN)/$(COMPILE) -c requirements-dev.txt --extra run pyproject.toml -o .ci/requirements-run.txt
	@echo uv | $(BIN)/$(COMPILE) $(ARGS) - -o .ci/requirements-uv.txt

clean: ## Remove installed and cached files; the data in .data stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): REQUIREMENTS := requirements-dev.txt
$(READY_TO_RUN): REQUIREMENTS := .ci/requirements-run.txt
$(READY): requirements-dev.txt
$(READY_TO_RUN): .ci/requirements-run.txt
# uv installs in seconds what takes pip a minute. It does not read the settings of pip, which may name a mirror.
$(READY) $(READY_TO_RUN): .ci/requirements-uv.txt
	@for python in $(PYTHON) ""; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer is needed; tried $(PYTHON). Name one with: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	echo "Installing into $(VENV), once and after changes of $(REQUIREMENTS)"; \
	$(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV)
	@$(PIP) .ci/requirements-uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement $(REQUIREMENTS) || \
		{ echo "uv failed; pip installs, which takes longer" >&2; $(PIP) $(REQUIREMENTS); }
	@touch $@
