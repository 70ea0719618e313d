# `make demo` and `make test` set up all they need; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
ARGS ?=
# Processes that share the tests; each compiles with threads of its own, so more than two want more than two cores.
WORKERS ?= 2
# CUDA wheels where an NVIDIA driver answers; `make demo REQUIREMENTS=requirements.txt` stays on the CPU.
REQUIREMENTS ?= $(shell nvidia-smi >/dev/null 2>&1 && echo requirements-cuda12.txt || echo requirements.txt)
REQUIREMENTS := $(REQUIREMENTS)

IN_VENV := $(VENV)/bin/python
INSTALLED := $(VENV)/installed-$(basename $(REQUIREMENTS))
# Large temporaries from huge pages, and kept: fewer page faults on CPU (glibc only, ignored elsewhere).
MALLOC := GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000

.PHONY: help setup demo test test-long lint clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

setup: $(INSTALLED)  ## make .venv with the pinned versions (PYTHON=python3.12 for another Python)

$(INSTALLED): $(REQUIREMENTS) requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("HVT-JAX needs Python 3.11 or newer; make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt install python3-venv"; exit 1; }
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt
	$(IN_VENV) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(INSTALLED)  ## make the digits videos, train on them into runs/demo and evaluate every level; goes on where it stopped
	$(IN_VENV) -m hvt_jax make_digits --root=data/digits
	$(MALLOC) $(IN_VENV) -m hvt_jax.main --config=configs/digits.py --workdir=$(RUN)

test: $(INSTALLED)  ## run all tests but the long ones, or some: make test ARGS="-k parity"
	$(IN_VENV) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: $(INSTALLED)  ## run the proofs that take minutes: kill series, fuzzing, float32 parity, notebooks, Beam and Ray
	$(IN_VENV) -m pytest -m long $(ARGS)

lint: $(INSTALLED)  ## check style and format
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

clean:  ## remove the environment and caches; data/ and runs/ stay
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis
	find hvt_jax configs tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
