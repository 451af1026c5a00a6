# make demo    install, encode and decode a real recording, print what it did
# make test    install, then all checks and the fast tests
# make help    the rest
PYTHON ?= python3
VENV ?= .venv
# The version that was tested. On Linux it is the CUDA build, gigabytes of it, unless pip is told of an index of CPU builds.
TORCH ?= torch==2.13.0
DEMO ?= out
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo install check test test-slow golden bench dist clean

help:
	@sed -n 's/^# //p' Makefile | head -3
	@echo "make install    the development environment in $(VENV)"
	@echo "make check      ruff and mypy"
	@echo "make test-slow  the tests that take minutes"
	@echo "make golden     golden vectors of the embedded models, after their weights or graphs changed"
	@echo "make bench      all benchmarks beside other codecs, six minutes; QUICK=--quick for two"
	@echo "make dist       wheel and source archive"

# The codecs that tests compare ours with; they ask for their own torch, torchaudio and more, and need none of it here.
REFERENCES = encodec descript-audio-codec snac vocos

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
	$(PIP) --no-deps $(REFERENCES)
	@touch $@ $(VENV)/.demo

install: $(VENV)/.dev

demo: $(VENV)/.demo
	@mkdir -p $(DEMO)
	$(BIN)/codec encode tests/fixtures/talk.flac $(DEMO)/talk.codes --overwrite
	$(BIN)/codec decode $(DEMO)/talk.codes $(DEMO)/talk.wav --overwrite
	$(BIN)/codec eval default_16k tests/fixtures/talk.flac --codebooks 2,4,8

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiled modules are kept whatever the environment says: else both workers and every command compile the tree anew.
test: check
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -q -m slow

golden: install
	for model in codec/models/*/; do $(BIN)/python -m codec.export.golden $$model tests/fixtures/demo.flac || exit 1; done

# encodec and vocos ask for torchaudio and do not need it here, so they come alone.
$(VENV)/.bench: pyproject.toml $(VENV)/.dev
	$(PIP) -e ".[bench]"
	$(PIP) --no-deps encodec vocos
	@touch $@

bench: $(VENV)/.bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.run $(QUICK)

dist: install
	$(PIP) build
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO)
