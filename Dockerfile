# One image for every role: worker (the default), code-server, daemon, webserver, migrate, up, and all other commands.
#   docker build --tag viewer-pipeline .
# For a reproducible build, name the base by its digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/viewer-pipeline
ENV PATH=/opt/viewer-pipeline/bin:$PATH
# Dependencies first: they change less often than the code. pip verifies the hashes of the lock.
# Then remove a quarter of their size: the tests of pandas and NumPy, and the source maps of Dagster's UI, for debuggers only.
# --build-arg LOCK=requirements.machines.lock adds what Celery workers and Dagster's launcher for Kubernetes need.
ARG LOCK=requirements.image.lock
COPY requirements.image.lock requirements.machines.lock ./
RUN python -m pip install --require-hashes --no-deps --only-binary :all: --requirement "${LOCK}" \
    && find /opt/viewer-pipeline -type d -name tests \( -path '*/pandas/*' -o -path '*/numpy/*' \) -prune -exec rm -r {} + \
    && find /opt/viewer-pipeline -path '*/dagster_webserver/webapp/*' -name '*.map' -delete
COPY pyproject.toml README.md LICENSE ./
COPY viewer_pipeline viewer_pipeline
COPY docs docs
# Remove what only the build needs, and pip.
RUN python -m pip install --no-deps --no-build-isolation . \
    && python -m pip uninstall --yes hatchling pathspec pluggy trove-classifiers setuptools pip

FROM ${PYTHON_IMAGE}
# Forwards signals to the process, whose id is not 1 then, and reaps its orphans.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'tini=0.19.*' \
    && rm -rf /var/lib/apt/lists/*
# A fixed id, for volumes and security policies. VIEWER_HOME is a volume for the reports of `reconcile`; everything else is
# written below /tmp, so the root file system can be read-only.
RUN groupadd --gid 10001 viewer \
    && useradd --uid 10001 --gid viewer --no-create-home --home-dir /tmp --shell /usr/sbin/nologin viewer \
    && install --directory --owner viewer --group viewer --mode 0750 /var/lib/viewer-pipeline
COPY --from=build /opt/viewer-pipeline /opt/viewer-pipeline
# An empty grpc_proxy: also Dagster's own commands connect to the code server directly, whatever http_proxy is.
ENV PATH=/opt/viewer-pipeline/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    VIEWER_HOME=/var/lib/viewer-pipeline \
    DAGSTER_HOME=/tmp/dagster \
    HEALTH_CHECK_HOST=0.0.0.0 \
    LOG_FORMAT=json \
    grpc_proxy=
WORKDIR /opt/viewer-pipeline
USER 10001:10001
EXPOSE 3000 3003 4000
# Requests /health of the worker. For other roles: `healthcheck code-server`, `daemon`, `webserver`.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["viewer-pipeline", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "viewer-pipeline"]
CMD ["worker"]
