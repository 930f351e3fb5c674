# What a newcomer needs: make run, make test, make check. CI (.ci/run) runs the same.
# Needs make and Python 3.11 or newer; PYTHON names another one: make run PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?= data
ARGS   ?=
SBOM   ?= build/sbom.json
LOCK    = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
  --generate-hashes

.PHONY: run test test-all coverage check bench chaos fuzz structure contract-diff contract-baseline install lock sbom audit clean help

run: install  ## serve on http://127.0.0.1:8080 with the embedded broker in ./data (ARGS="--port 9000" for more)
	@exec $(BIN)/kestrel-gateway serve --data $(DATA) $(ARGS)

test: install  ## the tests but the slow ones, which it lists (ARGS="tests/broker -k name" for some)
	$(BIN)/python -m tests $(ARGS)

test-all: install  ## every test, as CI runs them; outside programs come with .ci/install/*.sh
	$(BIN)/python -m tests --all $(ARGS)

coverage: install  ## which lines of gateway/ the tests run that are neither slow nor alone; processes that are killed do not count
	rm -f .coverage .coverage.*
	-$(BIN)/coverage run -m pytest -q -n 4 --dist loadfile -m "not slow and not alone" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: install  ## lint, format, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict gateway
	$(BIN)/mypy --cache-dir .mypy_cache/untyped
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: install  ## measure, and print one table (ARGS="--quick" for less)
	$(BIN)/python -m bench $(ARGS)

fuzz: install  ## give what reads strangers' bytes whatever breaks it (ARGS="--seconds 600")
	$(BIN)/python -m fuzz $(ARGS)

chaos: install  ## kill and freeze everything while jobs pass, and judge (ARGS="--seconds 180 --seed 7")
	$(BIN)/python -m chaos $(ARGS)

structure: install  ## count what a request calls, large classes, repeated names (ARGS="--root DIR" for a checkout)
	@$(BIN)/python -m structure $(ARGS)

contract-diff: install  ## name what openapi.yaml breaks for the clients of the last release
	@$(BIN)/python -m stability

contract-baseline: install  ## for a release: make today's openapi.yaml the one that contract-diff compares with
	@$(BIN)/python -m stability --renew

lock: install  ## renew requirements.lock and requirements-dev.lock (ARGS="--upgrade" for newer versions)
	$(LOCK) --extra zookeeper --extra build --output-file requirements.lock $(ARGS) pyproject.toml
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock $(ARGS) pyproject.toml

sbom: install  ## what the image's environment consists of, as CycloneDX JSON in $(SBOM)
	@mkdir -p $(dir $(SBOM))
	$(BIN)/uv venv --quiet --clear $(SBOM).venv --python $(BIN)/python
	$(BIN)/uv pip install --quiet --python $(SBOM).venv --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(SBOM).venv --no-deps --no-build-isolation .
	$(BIN)/uv pip uninstall --quiet --python $(SBOM).venv setuptools
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o $(SBOM) $(SBOM).venv
	@rm -rf $(SBOM).venv

audit: install  ## known vulnerabilities of what is locked; needs a database: KESTREL_GATEWAY_AUDIT=1
	@if [ -z "$$KESTREL_GATEWAY_AUDIT" ]; then \
	  echo "audit: skipped, no database of vulnerabilities is at hand; set KESTREL_GATEWAY_AUDIT=1 where one is"; \
	else $(BIN)/uv tool run pip-audit --require-hashes --disable-pip -r requirements.lock; fi

install: $(VENV)/.installed  ## .venv with everything that is locked in it, made again when that or pyproject.toml is newer

$(VENV)/.installed: pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kestrel-gateway needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv with pip; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once, and when pyproject.toml changes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:  ## remove what install and the tests made; ./data stays
	rm -rf .coverage .coverage.* $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' $(MAKEFILE_LIST)
