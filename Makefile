# `make run` and `make test` do all their own set-up; they need Python 3.11 or later and make.
# TORCH_INDEX may name a package index to take torch from, such as https://download.pytorch.org/whl/cpu .

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: run test test-compose test-gpu test-chaos bench checkpoints clean

run: $(VENV)/.run
	@exec $(BIN)/carryover serve

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

test-compose: $(VENV)/.dev
	$(BIN)/pytest tests/compose

test-gpu: $(VENV)/.dev
	$(BIN)/pytest -m gpu tests/http/v1/test_own_models.py

test-chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos

bench: $(VENV)/.dev
	$(BIN)/python -m bench

checkpoints: $(VENV)/.dev
	$(BIN)/python -m models.train

clean:
	rm -rf $(VENV) bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml requirements.txt requirements-embedded.txt | $(VENV)/bin/python
	$(PIP) -e '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.txt requirements-embedded.txt requirements-dev.txt | $(VENV)/bin/python
	$(PIP) -r requirements-dev.txt -e .
	@touch $@ $(VENV)/.run
