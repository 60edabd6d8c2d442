# Two commands matter: `make run` does the main job, `make test` runs the tests. Both set everything
# up first, in a virtual environment inside the checkout.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# CI pins the heavy packages here; the project itself accepts the ranges in pyproject.toml.
CONSTRAINTS ?= constraints.txt

.PHONY: help setup native gpu-check run test test-all engines-check lint links types wheel-check clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdguard needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

setup: $(READY)  ## make the virtual environment and install everything into it

native: setup  ## compile the op's kernels for onnxruntime; needs g++, for CUDA nvcc too; nothing else needs them
	$(BIN)/python -m kdguard.runtime.kernels.build $(NATIVE_FLAGS)

# Not after `setup`: a machine with a GPU may have no registry, and a bare Python with NumPy is enough.
gpu-check: links  ## on a machine with a GPU: compile the kernels, check and time them; needs nvcc and NumPy
	PYTHONPATH=build/types $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m kdguard.runtime.gpu_check $(CHECK_FLAGS)

run: setup  ## the main job: export, harden, verify, attack, report
	$(BIN)/kdguard run examples/quickstart/pipeline.yaml

test: setup  ## the default tests
	$(BIN)/python -m pytest

test-all: setup  ## the default tests and the slow ones
	$(BIN)/python -m pytest -m ''

engines-check: setup  ## build fp32 and fp16 engines of the published teachers, hardened by the defaults; minutes
	$(BIN)/python -m pytest -m slow tests/runtime/engines

lint: setup  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The import names as a tree of links, for what does not follow setuptools' package mapping: mypy, a bare Python.
links:
	mkdir -p build/types/kdguard
	for package in export graph_passes runtime; do ln -sfn ../../../$$package build/types/kdguard/$$package; done

types: setup links  ## mypy on the public packages
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p kdguard

wheel-check: setup  ## build the wheel, install it elsewhere and use it from an empty folder
	$(BIN)/python -m pytest tests/packaging

clean:  ## remove everything that was built; run folders stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
