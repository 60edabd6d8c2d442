# Two commands matter: `make run` does the main job, `make test` runs the tests. Both set everything
# up first, in a virtual environment inside the checkout.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# CI pins the heavy packages here; the project itself accepts the ranges in pyproject.toml.
CONSTRAINTS ?= constraints.txt

.PHONY: help setup native run test test-all engines-check lint types wheel-check clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdguard needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

setup: $(READY)  ## make the virtual environment and install everything into it

native: setup  ## compile the op's kernels for onnxruntime; needs g++, nothing else needs them
	$(BIN)/python -m kdguard.runtime.kernels.build

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

# mypy cannot follow setuptools' package mapping, so it gets the import names as a tree of links.
types: setup  ## mypy on the public packages
	mkdir -p build/types/kdguard
	for package in export graph_passes runtime; do ln -sfn ../../../$$package build/types/kdguard/$$package; done
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p kdguard

wheel-check: setup  ## build the wheel, install it elsewhere and use it from an empty folder
	$(BIN)/python -m pytest tests/packaging

clean:  ## remove everything that was built; run folders stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
