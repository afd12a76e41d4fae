"""Importing this module imports what a run needs, and resolves the definitions as a run does before its first step.

A process forked afterwards does neither again: that is 2 seconds of CPU. A test checks that a run imports no other
module of Dagster or of ours.
"""

from contextlib import suppress
from importlib import import_module
from typing import Any

import dagster as dg
import psycopg
from dagster._core.execution.api import create_execution_plan
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.storage_engine import close_idle_connections
from viewer_pipeline.settings_of_running_up import load_settings_and_find_servers
from viewer_pipeline.stores.postgres import open_connection

# What Dagster and our modules import only when it is needed.
IMPORTED_LATER = (
    "dagster._cli.api",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.utility_ops",
    "dagster._grpc.impl",
    "dagster._grpc.server",
    "dagster._utils.test.definitions",
    "upath.implementations.local",
    "viewer_pipeline.flush.copy_format",
    "viewer_pipeline.orchestration.event_log_as_output",
    "viewer_pipeline.orchestration.short_interval_run_coordinator",
    "viewer_pipeline.orchestration.storage",
)

for name in IMPORTED_LATER:
    import_module(name)
repository = defs.get_repository_def()
repository.load_all_definitions()
create_execution_plan(repository.get_job(flush_views.name), run_config=flush_run_config(FlushMode.changed))


@dg.asset(check_specs=[dg.AssetCheckSpec("check", asset="rehearsal")])
def rehearsal() -> dg.MaterializeResult:  # type: ignore[type-arg] # Dagster takes a parameter for one output
    """Return what our steps return: an asset with metadata and a check."""
    table = dg.MetadataValue.table([dg.TableRecord({"column": 1})])
    metadata: dict[str, Any] = {"int": 1, "float": 0.5, "text": "", "table": table}
    return dg.MaterializeResult(metadata=metadata, check_results=[dg.AssetCheckResult(passed=True, metadata=metadata)])


# Dagster builds the constructors of its records, and caches of types, when they are first used: a tenth of a run.
# Without a directory for temporary files each run builds them.
with suppress(OSError, dg.DagsterError), dg.DagsterInstance.ephemeral() as instance:
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    dg.materialize([rehearsal], instance=instance, run_config=quiet)

# The storage's engine, and what its schema has. Where it cannot be opened now, each run finds out itself.
with suppress(dg.DagsterError, DagsterPostgresException, SQLAlchemyError, ViewerPipelineError, psycopg.Error):
    # One try: Dagster would try for a minute, in which no run can start.
    open_connection(load_settings_and_find_servers().dagster_storage_url()).close()
    dg.DagsterInstance.get().get_run_by_id("none")
close_idle_connections()
