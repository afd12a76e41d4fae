"""The Dagster instance of this pipeline: its directory and its run history."""

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from viewer_pipeline.orchestration.dagster_home import write_dagster_home
from viewer_pipeline.orchestration.flush_job import LAUNCHED, flush_views
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.postgres import DAGSTER_STORAGE
from viewer_pipeline.stores.postgres_errors import to_our_error


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the instance, and create Dagster's tables if they are missing.

    Raises PostgresUnavailable or PostgresFailed.
    """
    settings.export_to_os_environ()
    try:
        return dg.DagsterInstance.from_config(str(write_dagster_home(settings)))
    except (DagsterPostgresException, SQLAlchemyError) as error:
        url = settings.require_dagster_database_url()
        raise to_our_error(error, url, subject=DAGSTER_STORAGE) from error


def count_flush_runs(instance: dg.DagsterInstance, status: dg.DagsterRunStatus | None = None) -> int:
    """Return the number of flush runs in the history; `status`: of those alone that have it."""
    return instance.get_runs_count(dg.RunsFilter(job_name=flush_views.name, statuses=[status] if status else None))


def mark_launched_runs_failed(instance: dg.DagsterInstance, *, of_code_server_only: bool = False) -> list[str]:
    """Mark all launched runs as failed, because their processes have ended with their parent; return their ids.

    Call it only while nothing launches runs on this instance. Without it, an orphan of a killed stack would block all
    other runs of its job for `max_runtime_seconds`. `of_code_server_only`: only runs launched by a code server, which
    are its child processes, and not those of `viewer-pipeline flush`.
    """
    runs = [record.dagster_run for record in instance.get_run_records(dg.RunsFilter(statuses=LAUNCHED))]
    if of_code_server_only:
        runs = [run for run in runs if GRPC_INFO_TAG in run.tags]
    for run in runs:
        instance.report_run_failed(run, "its process ended together with its parent process")
    return [run.run_id for run in runs]
