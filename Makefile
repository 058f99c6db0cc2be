# Every target does its own set-up, in .venv; that needs Python 3.11 or later and make.
# TORCH_INDEX may name a package index to take torch from, such as https://download.pytorch.org/whl/cpu .

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# What `make test` runs: a file, a test or any options of pytest; by default all tests, after lint and types, some files
# at a time.
T ?=
ALL := --numprocesses logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run check test test-compose test-zoo test-chaos soak test-api test-alerts test-gpu lint bench checkpoints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

run: $(VENV)/.run ## start the service; settings are environment variables
	@exec $(BIN)/carryover serve

check: lint ## lint, types and unit tests, in under a minute
	$(BIN)/pytest tests/unit $(ALL)

test: $(if $(T),$(VENV)/.dev,lint) ## lint, types and all tests; with T=tests/http/v1/test_sessions.py that file only
	$(BIN)/pytest $(or $(T),$(ALL))

test-compose: $(VENV)/.dev ## test the deployment; needs a container engine
	$(BIN)/pytest tests/compose

test-zoo: $(VENV)/.zoo ## test published modules of other packages, which it installs
	$(BIN)/pytest tests/zoo

test-chaos: $(VENV)/.dev ## kill, cut and stop everything under load; SECONDS=120, SEED, PHASES
	$(BIN)/python -m tests.chaos

soak: $(VENV)/.dev ## load for SECONDS=600, after which nothing may have grown
	$(BIN)/python -m tests.soak

test-api: $(VENV)/.dev ## 10,000 requests that are made from the OpenAPI document; REQUESTS, SEED
	$(BIN)/pytest tests/openapi -s

test-alerts: ## test the alert rules; needs promtool, of Debian's package prometheus
	promtool check rules deploy/monitoring/alerts.yml
	promtool test rules deploy/monitoring/alerts.test.yml

test-gpu: $(VENV)/.dev ## test what needs an NVIDIA GPU and torch's build for it
	$(BIN)/pytest tests/gpu

lint: $(VENV)/.dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## measure what a request costs
	$(BIN)/python -m bench

checkpoints: $(VENV)/.dev ## train the models that come with the service again
	$(BIN)/python -m models.train

clean: ## delete the virtual environment and all caches
	rm -rf $(VENV) bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml requirements.txt requirements-embedded.txt requirements-client.txt | $(VENV)/bin/python
	$(PIP) -e '.[embedded,client]'
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.txt requirements-embedded.txt requirements-client.txt requirements-otel.txt requirements-dev.txt | $(VENV)/bin/python
	$(PIP) -r requirements-dev.txt -e .
	@touch $@ $(VENV)/.run

# Without their dependencies, which would bring another torch.
$(VENV)/.zoo: requirements-zoo.txt | $(VENV)/.dev
	$(PIP) --no-deps -r requirements-zoo.txt
	@touch $@
