# make demo    install, encode and decode a real recording, print what it did
# make test    install, then all checks and the fast tests
# make help    the rest
PYTHON ?= python3
VENV ?= .venv
# The build that was tested. Plain `torch` would bring gigabytes of CUDA on Linux.
TORCH ?= torch==2.13.0
DEMO ?= out
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo install check test test-slow dist clean

help:
	@sed -n 's/^# //p' Makefile | head -3
	@echo "make install    the development environment in $(VENV)"
	@echo "make check      ruff and mypy"
	@echo "make test-slow  the tests that take minutes"
	@echo "make dist       wheel and source archive"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) "$(TORCH)"
	@touch $@

# Encoding and decoding need no torch.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[eval]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.demo

install: $(VENV)/.dev

demo: $(VENV)/.demo
	@mkdir -p $(DEMO)
	$(BIN)/codec encode tests/fixtures/demo.flac $(DEMO)/demo.codes --overwrite
	$(BIN)/codec decode $(DEMO)/demo.codes $(DEMO)/demo.wav --overwrite
	$(BIN)/codec eval default_16k tests/fixtures/demo.flac --codebooks 2,4,8

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -q

test-slow: install
	$(BIN)/python -m pytest -q -m slow

dist: install
	$(PIP) build
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO)
