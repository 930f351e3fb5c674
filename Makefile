# Start here: make run, make test, make check. CI (.ci/run) runs the same commands.
# Needs make and Python 3.11 or newer. Choose another Python with PYTHON: make run PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?= data
ARGS   ?=
SBOM   ?= build/sbom.json
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py)
LOCK    = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
  --generate-hashes

.PHONY: run test test-all coverage check docs bench chaos fuzz structure contract-diff contract-baseline install release lock sbom audit screenshots clean help

run: install  ## serve on http://127.0.0.1:8080 with the embedded broker in ./data (ARGS="--port 9000" for more)
	@exec $(BIN)/kestrel-gateway serve --data $(DATA) $(ARGS)

test: install  ## run the tests, except the slow ones, which it lists (ARGS="tests/broker -k name" selects some)
	$(BIN)/python -m tests $(ARGS)

test-all: install  ## run every test, as CI does; .ci/install/*.sh install the outside programs
	$(BIN)/python -m tests --all $(ARGS)

coverage: install  ## measure which lines of gateway/ the tests run (without slow and alone tests, and without killed processes)
	rm -f .coverage .coverage.*
	-$(BIN)/coverage run -m pytest -q -n 4 --dist loadfile -m "not slow and not alone" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --show-missing

check: install  ## lint, and check format, types and import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict gateway
	$(BIN)/mypy --cache-dir .mypy_cache/untyped
	$(BIN)/python -m pytest -q tests/test_layers.py

docs: install  ## build the pages of docs/ as a site in build/docs; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/uv tool run --quiet --from 'mkdocs>=1.6,<2' --with 'mkdocs-material>=9.7,<10' mkdocs build

bench: install  ## measure speed and memory, and print one table (ARGS="--quick" for a short run)
	$(BIN)/python -m bench $(ARGS)

fuzz: install  ## fuzz everything that reads bytes from clients (ARGS="--seconds 600")
	$(BIN)/python -m fuzz $(ARGS)

chaos: install  ## kill and freeze processes under load, and check the promises (ARGS="--seconds 180 --seed 7")
	$(BIN)/python -m chaos $(ARGS)

structure: install  ## count calls per request, large classes and repeated names (ARGS="--root DIR" for another checkout)
	@$(BIN)/python -m structure $(ARGS)

contract-diff: install  ## list what in openapi.yaml breaks clients of the last release
	@$(BIN)/python -m stability

contract-baseline: install  ## for a release: make the current openapi.yaml the base of contract-diff
	@$(BIN)/python -m stability --renew

release: install  ## check this version, build its packages in dist/ and print what is left to push
	@test -z "$$(git status --porcelain)" || { echo "commit all changes first:" >&2; git status --short >&2; exit 1; }
	@! git rev-parse -q --verify refs/tags/v$(VERSION) >/dev/null || { \
	  echo "the tag v$(VERSION) exists already: set the next version as __version__ in gateway/__init__.py" >&2; exit 1; }
	@grep -q '^## $(VERSION) - ' CHANGELOG.md || { \
	  echo "CHANGELOG.md has no section '## $(VERSION) - DATE': set __version__ in gateway/__init__.py and name the section" >&2; exit 1; }
	@awk '/^## / { here = index($$0, "## $(VERSION) - ") == 1 } here && /^- / { found = 1 } END { exit !found }' CHANGELOG.md || { \
	  echo "CHANGELOG.md says nothing of $(VERSION): list its changes in its section" >&2; exit 1; }
	@rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*
	@echo "To publish $(VERSION), when .ci/run has passed on this commit:"
	@echo "  git tag -a v$(VERSION) -m 'kestrel-gateway $(VERSION)' && git push origin v$(VERSION)"
	@echo "  $(BIN)/twine upload dist/*"
	@echo "  docker build --build-arg VERSION=$(VERSION) --tag kestrel-gateway:$(VERSION) . && docker push kestrel-gateway:$(VERSION)"

lock: install  ## update requirements.lock and requirements-dev.lock (ARGS="--upgrade" for newer versions)
	$(LOCK) --extra zookeeper --extra otel --extra build --output-file requirements.lock $(ARGS) pyproject.toml
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock $(ARGS) pyproject.toml

sbom: install  ## write the software bill of materials of the image to $(SBOM), as CycloneDX JSON
	@mkdir -p $(dir $(SBOM))
	$(BIN)/uv venv --quiet --clear $(SBOM).venv --python $(BIN)/python
	$(BIN)/uv pip install --quiet --python $(SBOM).venv --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(SBOM).venv --no-deps --no-build-isolation .
	$(BIN)/uv pip uninstall --quiet --python $(SBOM).venv setuptools
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o $(SBOM) $(SBOM).venv
	@rm -rf $(SBOM).venv

audit: install  ## look up known vulnerabilities of the locked packages (needs a database: KESTREL_GATEWAY_AUDIT=1)
	@if [ -z "$$KESTREL_GATEWAY_AUDIT" ]; then \
	  echo "audit: skipped, set KESTREL_GATEWAY_AUDIT=1 where a database of vulnerabilities can be reached"; \
	else $(BIN)/uv tool run pip-audit --require-hashes --disable-pip -r requirements.lock; fi

install: $(VENV)/.installed  ## create .venv with the locked packages; update it when they or pyproject.toml change

$(VENV)/.installed: pyproject.toml requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kestrel-gateway needs Python 3.11 or newer; choose one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv with pip; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once, and when pyproject.toml changes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

screenshots: install  ## make the pictures in docs/images from a running gateway (.ci/install/chromium.sh installs the browser)
	$(BIN)/python -m tests.ui.screenshots

clean:  ## remove what install and the tests created, but not ./data
	rm -rf .coverage .coverage.* $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' $(MAKEFILE_LIST)
