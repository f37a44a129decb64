# Everything one does with this repository. `make` alone lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.SILENT:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PACKAGES := esper_core esper_runtime esper_policy esper_tasks esper_cli \
            tolaria tamiyo kasmina oona weatherlight nissa urza urabrask simic
MANIFESTS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --dist loadfile
IMAGE := proto/leyline.binpb

##@ The two commands that do everything

demo: setup ## Train letter small, big and grown through the nine services; writes report.html
	$(BIN)/esper demo $(ARGS)

test: setup ## Run all tests (under 10 minutes)
	$(PYTEST) tests $(PARALLEL) -q $(ARGS)

##@ Using it

setup: $(STAMP) ## Create .venv and install everything at pinned versions

$(STAMP): constraints.txt requirements-dev.txt $(MANIFESTS) tools/setup_environment.py
	$(PYTHON) tools/setup_environment.py $(VENV)
	touch $@

demo-short: setup ## The same main job, cut down to a minute or two
	$(BIN)/esper demo --short $(ARGS)

up: setup ## Start the local stack; Ctrl-C stops it
	$(BIN)/esper up $(ARGS)

down: setup ## Stop the local stack
	$(BIN)/esper down $(ARGS)

##@ Tests

test-unit: setup ## Unit and property tests only
	$(PYTEST) tests/unit $(PARALLEL) -q $(ARGS)

test-integration: setup ## Contract, integration and replay tests: real processes, a real Valkey
	$(PYTEST) $(wildcard tests/contract tests/integration tests/replay tests/e2e) $(PARALLEL) -q $(ARGS)

test-chaos: setup ## Kill real processes in mid-run
	$(PYTEST) $(wildcard tests/chaos) -q $(ARGS)

soak: setup ## The long soaks
	RUN_SOAK_TESTS=1 $(PYTEST) tests -m soak --timeout 1800 -q $(ARGS)

coverage: setup ## Unit tests with a coverage report
	$(PYTEST) tests/unit $(PARALLEL) -q --cov --cov-report=term $(ARGS)

bench: setup ## Measure everything; over half an hour
	$(BIN)/python -m benchmarks $(ARGS)

bench-growth: setup ## Measure whether growing pays, in minutes (ARGS=--short: about a minute)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks growth $(ARGS)

bench-step: setup ## Measure a managed step against a bare loop
	$(BIN)/python -m benchmarks step-overhead $(ARGS)

bench-rollback: setup ## Measure going back, from memory and from disk
	$(BIN)/python -m benchmarks rollback $(ARGS)

bench-prefetch: setup ## Measure what the way to a kernel adds over the bare fetch
	$(BIN)/python -m benchmarks prefetch $(ARGS)

bench-harness: setup ## The four standing scenarios as JSON and CSV (ARGS=--quick: seconds each)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks harness $(ARGS)

##@ Checks

lint: setup ## Style, formatting and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	$(BIN)/mypy tools tests/support
	$(BIN)/mypy -p benchmarks

docs-check: setup ## Fail when a generated page is not what the code says
	$(BIN)/python tools/generate_docs.py --check

traceability: setup ## Print the requirements with the tests that prove them
	$(BIN)/python tools/traceability.py

##@ Contracts and documents

proto: setup ## Generate the Python bindings from proto/
	$(BIN)/python tools/generate_protos.py

proto-check: setup ## Lint the contracts, compare with the stored image, check the bindings for drift
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against $(IMAGE)
	$(BIN)/python tools/generate_protos.py --check

proto-image: setup ## Store the contracts as they are now as the image that later ones must not break
	$(BIN)/buf build proto --exclude-source-info -o $(IMAGE)

docs: setup ## Generate the reference pages and the READMEs' lists of rooms from the code
	$(BIN)/python tools/generate_docs.py

constraints: setup ## Pin what is installed now in constraints.txt
	$(BIN)/python tools/freeze_constraints.py
	touch $(STAMP)

##@ The rest

clean: ## Remove caches, builds and the environment
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage*
	find libs services tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## This list
	awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo test setup demo-short up down test-unit test-integration test-chaos soak coverage bench bench-growth bench-step bench-rollback bench-prefetch bench-harness lint format types \
        docs-check traceability proto proto-check proto-image docs constraints clean help
