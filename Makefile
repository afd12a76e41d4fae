# Each target makes .venv from the lock by itself, with nothing but python3 (3.11 or newer), its venv and pip.
# `make help` lists them.

PYTHON ?= python3
# Tests at once, each with servers of its own: they wait half of the time. A named Redis serves one test at a time.
CORES := $(shell getconf _NPROCESSORS_ONLN || echo 2)
JOBS ?= $(or $(patsubst 0,,$(words $(TEST_REDIS_URL))),$(shell echo $$(( $(CORES) < 3 ? 4 : 6 ))))
TESTS ?=    # all; or a path, and whatever else pytest understands
MATRIX ?=   # options of matrix: MATRIX=--help lists them
PEERS ?=    # options of peers: PEERS=--help lists them
TAG ?=      # of the release that is checked: v and the version
BIN := .venv/bin
READY := .venv/.ready
READY_MACHINES := .venv/.ready-machines  # with the extras celery and k8s
PEERS_VENV := .cache/peers
PEERS_READY := $(PEERS_VENV)/.ready

.PHONY: help demo run test lint format docs bench clean vocabulary prove soak cluster-soak celery-soak cluster-bench peers browser matrix image-test package-test release-check release-image lock

# Every day:

demo: $(READY)    ## Run the main job on throw-away servers, and check that each of 20 000 views arrived once.
	$(BIN)/viewer-pipeline demo

run: $(READY)     ## Run everything in the foreground; Ctrl-C stops it.
	$(BIN)/viewer-pipeline up

# A file at a time, the long ones first. With byte code: the tests start a hundred processes of the package.
test: $(READY_MACHINES)  ## Run all tests, on embedded servers or on those that TEST_DATABASE_URL, TEST_REDIS_URL name.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(READY)    ## Check style, types, import rules, vocabulary and Dagster definitions.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.vocabulary
	DAGSTER_HOME="$$(mktemp -d)" $(BIN)/python -W ignore -m dagster definitions validate -w workspace.yaml --log-level warning

format: $(READY)  ## Format the code, and fix what can be fixed.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)    ## Renew the pages that are made from the code, then build all of docs/ into site/.
	$(BIN)/python -m tools.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m tools.site

bench: $(READY)   ## Measure the speed, with a reference in the same run.
	$(BIN)/viewer-pipeline bench all

cluster-soak: $(READY)  ## Kill flushes of a Redis Cluster while slots move and primaries fail over; every view counts once.
	$(BIN)/python -m tools.cluster_soak

celery-soak: $(READY_MACHINES)  ## Kill Celery workers, their runs and their broker while views arrive; every view counts once.
	$(BIN)/python -m tools.celery_soak

cluster-bench: $(READY) ## Measure a flush of a Redis Cluster, in turn with one of a single Redis.
	$(BIN)/python -m tools.measure_cluster

clean:            ## Remove .venv, dist, site and all caches.
	rm -rf .venv .cache dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Now and then:

vocabulary: $(READY)  ## List words that have a standard term (tools/vocabulary.toml).
	$(BIN)/python -m tools.vocabulary

prove: $(READY)   ## Break each rule of the protocol in a copy, and show that the tests fail.
	$(BIN)/python -m tools.prove

soak: $(READY)    ## Kill, pause and fail over everything for two minutes under full traffic; every view counts once.
	@history=$$(mktemp) && $(BIN)/viewer-pipeline soak --minutes 2 --history "$$history" \
	    && $(BIN)/python -m tools.judge "$$history" && rm "$$history"

peers: $(READY) $(PEERS_READY)  ## Measure DBOS, Celery and other ways to do the same job, with the same faults; takes hours.
	$(BIN)/python -m tools.peers --python $(PEERS_VENV)/bin/python $(PEERS)

browser: $(READY) ## Test the UI in a real Chromium; renews the screenshots in docs/images.
	VIEWER_TEST_SCREENSHOTS="$(CURDIR)/docs/images" $(BIN)/python -m pytest viewer_pipeline_tests/browser

matrix: $(READY)  ## Run the tests that use servers on every PostgreSQL and Redis that this machine has.
	$(BIN)/python -m tools.matrix --jobs $(JOBS) $(MATRIX)

# Podman's storage for it is .cache/containers: about 2 GB, and the next time is faster.
image-test: $(READY)   ## Build the image and run image and compose file: as processes and, where Podman is, as containers.
	VIEWER_TEST_IMAGE=1 $(BIN)/python -m pytest viewer_pipeline_tests/acceptance/test_image.py \
	    viewer_pipeline_tests/acceptance/test_podman.py

package-test: $(READY) ## Install wheel and sdist into new environments, and run the demo in each.
	$(BIN)/python -m tools.package

release-check: $(READY)  ## Build wheel, sdist and SBOM into dist/ and check them; TAG=v… checks the tag of a release, too.
	$(BIN)/python -m tools.release $(if $(strip $(TAG)),--tag "$$TAG")

# The digest fixes what is built: a tag of the base image names another content every few weeks.
release-image:    ## Build the image of a release, on PYTHON_IMAGE=python:…@sha256:…; needs Docker.
	@printf '%s' "$$PYTHON_IMAGE" | grep --quiet --extended-regexp '^[a-z0-9./:_-]+@sha256:[0-9a-f]{64}$$' \
	    || { echo "PYTHON_IMAGE=$$PYTHON_IMAGE: no digest; see PYTHON_IMAGE in .github/workflows/release.yml" >&2; exit 1; }
	docker build --pull --build-arg PYTHON_IMAGE --tag viewer-pipeline .

# uv writes these commands into the locks, where Renovate reads them: with = before values, and options that it knows.
COMPILE = uv pip compile --quiet --universal --upgrade --generate-hashes --no-strip-extras --python-version=3.11 pyproject.toml

lock: $(READY)    ## Renew requirements.lock from pyproject.toml, the locks of the image, and that of peers.
	$(BIN)/$(COMPILE) --extra=local --extra=otel --extra=image --extra=dev --extra=docs --output-file=requirements.lock
	$(BIN)/$(COMPILE) --extra=image --constraints=requirements.lock --output-file=requirements.image.lock
	$(BIN)/$(COMPILE) --extra=image --extra=celery --extra=k8s --constraints=requirements.lock --output-file=requirements.machines.lock
	$(BIN)/uv pip compile --quiet --universal --upgrade --no-header --no-annotate --python-version 3.11 \
	    tools/peers/requirements.in --output-file tools/peers/requirements.txt
	$(MAKE) $(READY)

$(PEERS_READY): tools/peers/requirements.txt
	@$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

help:             ## Show this list.
	@awk '/^# (Every day|Now and then):/ { print substr($$0, 3) } \
	    /^[a-z-]+:.*## / { split($$0, part, ":"); sub(/.*## /, ""); printf "  make %-13s %s\n", part[1], $$0 }' Makefile

# `uv sync` changes .venv, too; it writes uv.lock.
$(READY): requirements.lock pyproject.toml $(wildcard uv.lock)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv \
	    || { echo "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Without these two extras, the tests of Celery workers and of Kubernetes' launcher are skipped.
$(READY_MACHINES): requirements.machines.lock $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.machines.lock
	@touch $@
