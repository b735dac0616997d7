# One command each. Everything happens in .venv, which is made when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The tests run in two processes; more threads than that only get in each other's way.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Where extra wheels are needed (a torch for CPU only, say): make test PIP_ARGS="--index-url ..."
PIP_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo browser test check docs bench format pre-commit clean

help:
	@echo "make demo    install, then mend masks of bundled images and show the gain (demo/)"
	@echo "make test    install, then run all tests"
	@echo "make check   lint, formatting, types, layering, documentation"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   measure the claims of docs/benchmarks/ on this machine"
	@echo "make format  reformat the sources"
	@echo "make pre-commit  have lint and types checked at each commit"
	@echo "make clean   remove what was built (not .venv)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else \
		"segmend needs Python 3.10 or newer, but $(PYTHON) is %d.%d: make PYTHON=python3.12" % v[:2])'
	@echo "segmend: making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Stamps: an install is repeated only when pyproject.toml has changed.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "segmend: installing (PyTorch is large: the first time takes some minutes)"
	@$(PIP) install $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "segmend: installing with everything that tests and checks need (some minutes)"
	@$(PIP) install $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	@echo "segmend: running the demo (under 3 minutes on two cores); results in demo/"
	@$(BIN)/segmend demo --out demo

# The report is tested in a real browser: one that is there already, or else a new one.
browser: $(VENV)/.installed-dev
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name >/dev/null && exit; done; \
	echo "segmend: getting a browser for the report's tests"; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	else $(BIN)/python -m playwright install chromium; fi

test: browser
	@echo "segmend: running the tests"
	@$(THREADS) $(BIN)/python -m pytest -n 2 -q

check: $(VENV)/.installed-dev
	@echo "segmend: ruff";           $(BIN)/ruff check .
	@echo "segmend: formatting";     $(BIN)/ruff format --check .
	@echo "segmend: mypy";           $(BIN)/mypy
	@echo "segmend: import-linter";  $(BIN)/lint-imports
	@$(MAKE) --no-print-directory docs

docs: $(VENV)/.installed-dev
	@echo "segmend: documentation"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed-dev
	@echo "segmend: measuring; results in benchmarks/results/ and docs/benchmarks/"
	@$(BIN)/segmend bench --from benchmarks --out benchmarks/results

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

pre-commit: $(VENV)/.installed-dev
	@$(BIN)/pre-commit install

clean:
	@rm -rf dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
