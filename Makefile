# Every target sets up what it needs. PYTHON chooses the interpreter for a new VENV.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BENCHES ?= analysis growth kernels_cpu live lowered lowrank onnx peer_prune rank trace

BIN := $(abspath $(VENV))/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
# One thread a process: pytest and its workers share the cores.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest

.PHONY: help setup demo browser test soak lint types docs bench aot clean
.DELETE_ON_ERROR:

help:
	@echo "make demo | test | lint | types | docs | bench | aot | soak | clean"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

demo: $(READY)
	$(BIN)/netir demo --out build/demo --fresh

# The report is tested in Chromium, which is installed here where it is missing and can be had.
browser:
	@there() { which chromium || which chromium-browser || which google-chrome; } >/dev/null; \
	there || { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y chromium; }; \
	there || echo "no Chromium here: the tests of the report's page are skipped"

test: $(READY) browser
	$(PYTEST) -n 2 --dist loadgroup $(ARGS)

# The long tests, with more and fresh random examples.
soak: $(READY)
	$(PYTEST) -n 2 --dist worksteal -m soak --hypothesis-profile=soak $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .

# The wheel is built from the source archive, so a file missing from either shows up here.
types: $(READY)
	rm -rf build/types
	$(BIN)/pyproject-build --outdir build/types/dist .
	$(BIN)/python -m pip install --quiet --no-deps --target build/types/site build/types/dist/*.whl
	cd build/types/site && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache --package netir

docs: $(READY)
	$(BIN)/mkdocs build --strict

bench: $(BENCH_READY)
	set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python -m bench.$$bench $(ARGS); done

# The kernels' machine code, by any version of Triton, in an environment of its own.
TRITON ?= 3.9.0
AOT := build/triton-$(TRITON)
$(AOT)/.ready:
	test -x $(AOT)/bin/python || $(PYTHON) -m venv $(AOT)
	$(AOT)/bin/python -m pip install --quiet triton==$(TRITON)
	touch $@

aot: $(AOT)/.ready
	$(AOT)/bin/python -m bench.aot

# escnn wants older libraries than netir: an environment of its own, for bench.against_escnn.
build/escnn:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --requirement bench/escnn.txt
	$@/bin/python -m pip install --quiet --no-deps escnn==1.0.11

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
