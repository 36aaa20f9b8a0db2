# Every task of the project; CI calls the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cluster cluster control-plane test crash-safety lint crds format lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv from the hashed lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup ## Serve whisper-base on a real Triton here and transcribe a recording
	$(BIN)/python examples/models/assemble.py
	$(BIN)/python examples/demo.py

control-plane: setup ## Build the Kubernetes control plane that tests and cluster demos start (Go; minutes, once)
	$(BIN)/python -m tests.rig.binaries

cluster: control-plane ## Start a local control plane with the operator, to use with kubectl until Ctrl-C
	$(BIN)/python examples/models/assemble.py
	$(BIN)/python -m tests.rig.cluster

demo-cluster: control-plane ## The whole story on it: apply, watch, transcribe, change the draft, delete
	$(BIN)/python examples/models/assemble.py
	$(BIN)/python -m tests.rig.story

test: setup ## Run every test that this machine can run
	$(BIN)/python -m pytest

crash-safety: control-plane ## Kill the operator around its writes, CRASH_POINTS=12 of them or all (minutes to half an hour)
	$(BIN)/python -m pytest tests/cluster/crash_harness.py tests/cluster/crash_safety.py

lint: setup ## Format, style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m transcriber_api.schema --check

crds: setup ## Write the CRD and docs/api.md from the models
	$(BIN)/python -m transcriber_api.schema

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup ## Resolve requirements.lock anew
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url \
		--quiet --custom-compile-command "make lock" -o requirements.lock

clean: ## Remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
