# make up      a running archive, from a fresh clone
# make test    everything the tests need, and the tests (ARGS="-k store" to choose)
# make lint    format, lint, types, layers
# make check   the gate: lint and test; CI and pre-commit call the same
# make format  rewrite the source in the house format
# make docs    write the pages that are generated from the source
# make lock    bring requirements.lock to the newest versions that pyproject.toml allows

PYTHON ?= python3.11
VENV := .venv
ARGS ?=
# Twice quiet: errors are shown, progress and warnings about the machine's own pip configuration are not.
PIP := $(VENV)/bin/python -m pip --quiet --quiet

.PHONY: up test lint check format docs lock tools
.DELETE_ON_ERROR:

# `exec`: make hands SIGTERM to its child and waits for it, so that child must be pacs itself and not a shell.
up: $(VENV)/.installed
	@exec $(VENV)/bin/pacs up $(ARGS)

test: $(VENV)/.installed-dev tools
	@.ci/test $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

check: lint test

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix --exit-zero
	$(VENV)/bin/ruff format

docs: $(VENV)/.installed
	$(VENV)/bin/python docs/generate_configuration.py > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md
	$(VENV)/bin/python docs/generate_conformance.py > docs/conformance.md.new
	mv docs/conformance.md.new docs/conformance.md

lock: $(VENV)/bin/python
	$(VENV)/bin/python .ci/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

tools:
	@.ci/tools

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The lock file serves as constraints: one file for what runs and for what tests, and pip as the machine configures it.
$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing pacs into $(VENV)"
	@$(PIP) install --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.installed-dev: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing pacs and its development tools into $(VENV)"
	@$(PIP) install --constraint requirements.lock --editable '.[dev]'
	@touch $@ $(VENV)/.installed
