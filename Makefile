# Everything starts from here: each target brings its own set-up. Needs Python 3.11 or newer, make and g++.

PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $(name))))
JOBS ?= 2
PYTEST_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: help venv demo docs test test-rtl bench bench-ptq lint types format layers aten schemas house notebooks wheel test-wheel clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv: $(VENV)/ready  ## make .venv with everything that development needs

demo: $(VENV)/ready  ## handwritten digits, from float training to bit-exact C++, into out/
	$(PY) demo/digits.py --out out

docs: $(VENV)/ready  ## build the site into out/site/: the pages of docs/, and references made from the definitions
	$(PY) -m website

test: lint  ## format, lint and type checks, then all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(JOBS) --durations=60 $(PYTEST_ARGS)

test-rtl: $(VENV)/ready  ## every kind of design as RTL, simulated beside its C++ (clang 16, Icarus Verilog, Verilator, Yosys)
	@PYTHONPATH=tests $(PY) -m support.rtl.tools 2>/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing clang-16, iverilog, verilator and yosys with apt-get" \
			&& apt-get update -qq && apt-get install -y -qq clang-16 iverilog verilator yosys >/dev/null; \
	} || true
	@PYTHONPATH=tests $(PY) -m support.rtl.tools
	CI=1 OMP_NUM_THREADS=1 $(PY) -m pytest tests/rtl --thorough --numprocesses $(JOBS) --durations=10 $(PYTEST_ARGS)

lint: $(VENV)/ready  ## the format, lint and type checks alone
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m basedpyright
	$(PY) -m mypy qfx tests/support tests/typed $(wildcard demo/*.py benchmarks/*.py website/*.py)
	PYTHONPATH=tests $(PY) -m support.typed_wheel

types: $(VENV)/ready  ## whether every exported name has its type written, as pyright sees the installed package (part of lint)
	PYTHONPATH=tests $(PY) -m support.typed_wheel

format: $(VENV)/ready  ## rewrite the sources in the project's format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

layers: $(VENV)/ready  ## write docs/layers.md from the definitions
	PYTHONPATH=tests $(PY) -m support.layers_page

aten: $(VENV)/ready  ## write docs/aten.md from torch's list and the forms that are tested
	PYTHONPATH=tests $(PY) -m support.aten_page

schemas: $(VENV)/ready  ## write the JSON schemas in qfx/schemas/ from the definitions
	for kind in recipe board folding; do $(PY) -m qfx.cli schema $$kind --force -o qfx/schemas/$$kind.schema.json || exit 1; done

house: $(VENV)/ready  ## draw docs/images/house.svg, the rooms and which imports which, from the sources
	$(PY) -m website.plan

notebooks: $(VENV)/ready  ## run the notebooks and store them with their outputs
	PYTHONPATH=tests $(PY) -m support.notebooks

bench: $(VENV)/ready  ## the time of a training step, beside float and Brevitas
	$(PY) -m benchmarks

bench-ptq: $(VENV)/ready  ## ResNet-20 on CIFAR-10 quantized after training, beside Brevitas (two hours)
	$(PY) -m benchmarks.ptq

wheel: $(VENV)/ready  ## build the wheel into dist/
	$(PY) -m build --wheel --no-isolation --outdir dist .

test-wheel: wheel  ## install the wheel into environments of every Python at hand and try it there; says what it skipped
	$(PY) tests/support/wheel.py dist/*.whl

clean:  ## remove what the other targets made, .venv included
	rm -rf $(VENV) build dist out qfx.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian ships Python without the part that makes virtual environments; root can have it at once, everyone else is told.
$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "qfx needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing python3-venv with apt-get" \
			&& apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; \
	} || { echo "$(PYTHON) cannot make virtual environments: install Debian's python3-venv and start again" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, as the build for the CPU where pip finds one: the plain build for Linux brings CUDA, gigabytes that nothing here
# needs. (PyTorch has an index of CPU builds; pip takes it from PIP_EXTRA_INDEX_URL.)
$(VENV)/ready: $(VENV)/bin/pip pyproject.toml constraints.txt Makefile
	@echo "installing PyTorch $(TORCH) for the CPU into $(VENV)"
	@$(PIP) "torch==$(TORCH)+cpu" 2>/dev/null || $(PIP) "torch==$(TORCH)"
	@echo "installing qfx and its development tools into $(VENV)"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable ".[dev,demo,bench,docs]"
	@touch $@
