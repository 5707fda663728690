# `make demo` and `make test` need python3 (3.11 or newer), pip and make; each builds .venv once and then reuses it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# pip warns about every entry of a local wheel folder that is not for this project; errors still show.
QUIET := 2> >(grep -v 'Location .* is ignored' >&2)
PYTEST := $(BIN)/python -m pytest

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

.PHONY: help demo test test-quick test-slow test-triton lint format clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.installed ## Encode and search real text in 26 languages with the bundled checkpoint (offline after the install)
	@$(BIN)/milco demo

test: lint ## Lint, then every test
	$(PYTEST) -q

test-quick: $(VENV)/.installed-dev ## The tests that need seconds
	$(PYTEST) -q -m "not slow"

test-slow: $(VENV)/.installed-dev ## The tests that start processes or train
	$(PYTEST) -q -m slow

test-triton: $(VENV)/.installed-dev ## The head's Triton kernels in Triton's interpreter (fetches 286 MB, Linux)
	@$(PIP) install -c constraints.txt -e ".[dev,triton-test]" $(QUIET)
	$(PYTEST) -q tests/test_head_triton.py

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

$(BIN)/python:
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# The install is repeated only when what it depends on has changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing milco-hf into $(VENV) (PyTorch and transformers: a minute or two) ..."
	@$(PIP) install -c constraints.txt -e . $(QUIET)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing milco-hf with what its tests need into $(VENV) (a few minutes) ..."
	@$(PIP) install -c constraints.txt -e ".[dev]" $(QUIET)
	@touch $(VENV)/.installed $@
