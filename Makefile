# Every target does its own set-up, in .venv; that needs Python 3.11 or later and make.
# TORCH_INDEX may name a package index to take torch from, such as https://download.pytorch.org/whl/cpu .

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# It shows its progress: torch takes minutes to download.
PIP := $(BIN)/pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# What `make test` runs: a file, a test or any options of pytest; by default all tests that need no more than it
# installs, after lint and types, three files at a time: a test often waits. Those of the documentation are a target of
# their own, as they take minutes.
T ?=
ALL := --numprocesses 3 --dist loadfile --no-loadscope-reorder --ignore tests/docs

.DEFAULT_GOAL := help
.PHONY: help run check test test-docs test-compose test-zoo test-chaos test-kubernetes test-package soak test-api test-alerts test-browser test-gpu lint docs sbom audit bench checkpoints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 17

run: $(VENV)/.run ## start the service; settings are environment variables
	@exec $(BIN)/carryover serve

check: lint ## lint, types and unit tests, in under a minute
	$(BIN)/pytest tests/unit $(ALL)

test: $(if $(T),$(VENV)/.dev,lint) ## lint, types and all tests; with T=tests/http/v1/test_sessions.py that file only
	$(BIN)/pytest $(or $(T),$(ALL))

test-docs: $(VENV)/.dev ## run every command of README and docs, and compare what it prints
	$(BIN)/pytest tests/docs --numprocesses 3

test-compose: $(VENV)/.dev ## test the deployment; needs a container engine
	$(BIN)/pytest tests/compose

test-zoo: $(VENV)/.zoo ## test published modules of other packages, which it installs
	$(BIN)/pytest tests/zoo

test-chaos: $(VENV)/.dev ## kill, cut and stop everything under load; SECONDS=120, SEED, PHASES
	$(BIN)/python -m tests.chaos

test-kubernetes: $(VENV)/.dev ## render and check the manifests; needs kubectl
	$(BIN)/pytest tests/kubernetes

test-package: $(VENV)/.dev ## build wheel and sdist, install them in a new environment, and serve from there; needs a network
	$(BIN)/pytest tests/package

soak: $(VENV)/.dev ## load for SECONDS=600, after which nothing may have grown
	$(BIN)/python -m tests.soak

test-api: $(VENV)/.dev ## 10,000 requests that are made from the OpenAPI document; REQUESTS, SEED
	$(BIN)/pytest tests/openapi -s

test-alerts: ## test the alert rules; needs promtool, of Debian's package prometheus
	promtool check config deploy/monitoring/prometheus.yml
	promtool test rules deploy/monitoring/alerts.test.yml

test-browser: $(VENV)/.browser ## use the page at / in a browser; needs chromium; SCREENSHOT=docs/playground.png takes its picture
	$(BIN)/pytest tests/browser

test-gpu: $(VENV)/.dev ## test what needs an NVIDIA GPU and torch's build for it
	$(BIN)/pytest tests/gpu

lint: $(VENV)/.dev ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev ## the documentation as a site, in build/docs; warnings are errors
	$(BIN)/sphinx-build --fail-on-warning --nitpicky --keep-going --quiet docs build/docs

sbom: build/packages.txt ## build/sbom.json: the packages that serving needs, in CycloneDX's format; needs a network
	build/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-file build/sbom.json build/packages.txt

audit: build/packages.txt ## look these packages up in the database of known vulnerabilities; needs a network
	build/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement build/packages.txt

bench: $(VENV)/.dev ## measure what a request costs
	$(BIN)/python -m bench

checkpoints: $(VENV)/.dev ## train the models that come with the service again
	$(BIN)/python -m models.train

clean: ## delete the virtual environment and all caches
	rm -rf $(VENV) build bench/out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) service/carryover/platforms.py
	$(PYTHON) -m venv $(VENV)

build/audit/.done: requirements-audit.txt
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check --requirement requirements-audit.txt
	@touch $@

# Resolved as for a new image: also what requirements.txt does not name itself.
build/packages.txt: requirements.txt build/audit/.done
	build/audit/bin/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--dry-run --ignore-installed --report build/packages.json --requirement requirements.txt
	build/audit/bin/python -c 'import json; \
		found = [each["metadata"] for each in json.load(open("build/packages.json"))["install"]]; \
		print(*sorted("{name}=={version}".format_map(each).partition("+")[0] for each in found), sep="\n")' >$@

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

# Without their dependencies: the only one missing is greenlet, which comes with gevent.
$(VENV)/.browser: requirements-browser.txt | $(VENV)/.dev
	$(PIP) --no-deps -r requirements-browser.txt
	@touch $@
