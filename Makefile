# Every verb makes .venv from the lock by itself, with nothing but python3 (3.11 or newer), its venv and pip.

PYTHON ?= python3
# Tests at once, each with servers of its own: most of their time they wait. A named Redis serves one test at a time.
JOBS ?= $(or $(patsubst 0,,$(words $(TEST_REDIS_URL))),6)
TESTS ?=    # all; or a path, and whatever else pytest understands
MATRIX ?=   # options of test-matrix: MATRIX=--help lists them
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo run test test-matrix package-test image-test browser lint docs soak prove bench format lock clean

demo: $(READY)    ## the main job on throw-away servers: sends 20 000 views, checks that each arrived once
	$(BIN)/viewer-pipeline demo

run: $(READY)     ## everything in the foreground; Ctrl-C stops it
	$(BIN)/viewer-pipeline up

# A file at a time, the long ones first. With byte code: the tests start a hundred processes of the package.
test: $(READY)    ## all tests, on embedded PostgreSQL and Redis, or on those that TEST_DATABASE_URL, TEST_REDIS_URL name
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

test-matrix: $(READY)  ## the tests that touch servers, on every PostgreSQL and Redis that this machine has
	$(BIN)/python -m tools.matrix --jobs $(JOBS) $(MATRIX)

package-test: $(READY) ## wheel and sdist, installed with all they need into new environments; each runs the demo there
	$(BIN)/python -m tools.package

browser: $(READY) ## the UI in a real Chromium; renews the pictures in docs/images
	VIEWER_TEST_PICTURES="$(CURDIR)/docs/images" $(BIN)/python -m pytest viewer_pipeline_tests/browser

lint: $(READY)    ## style, types, import rules, Dagster definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	DAGSTER_HOME="$$(mktemp -d)" $(BIN)/python -W ignore -m dagster definitions validate -w workspace.yaml --log-level warning

image-test: $(READY)  ## what the Dockerfile and docker-compose.yaml do, without Docker; from nothing, as another user
	VIEWER_TEST_IMAGE=1 $(BIN)/python -m pytest viewer_pipeline_tests/acceptance/test_image.py

docs: $(READY)    ## renews the pages that are made from the code, then builds all of docs/ into site/
	$(BIN)/python -m tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m tools.site

soak: $(READY)    ## two minutes of kills, pauses and failovers under two pipelines in full traffic; every view is counted once
	$(BIN)/viewer-pipeline soak --minutes 2

prove: $(READY)   ## breaks each rule of the protocol in a copy, and shows that the tests go red
	$(BIN)/python -m tools.prove

bench: $(READY)   ## speed, with a reference in the same run
	$(BIN)/viewer-pipeline bench all

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

COMPILE = $(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-strip-extras --no-header \
	--python-version 3.11 pyproject.toml

lock: $(READY)    ## renew requirements.lock from pyproject.toml, and of it what the image gets
	$(COMPILE) --all-extras --output-file requirements.lock
	$(COMPILE) --extra image --no-annotate --constraints requirements.lock --output-file requirements.image.lock
	$(MAKE) $(READY)

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
	    || { echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
