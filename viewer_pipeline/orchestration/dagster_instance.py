"""The Dagster instance of this pipeline: its directory and its run history."""

from pathlib import Path

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import SQLAlchemyError

from viewer_pipeline.files import write_atomically_if_changed
from viewer_pipeline.orchestration.flush_job import LAUNCHED, flush_views
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.postgres import DAGSTER_STORAGE
from viewer_pipeline.stores.postgres_errors import to_our_error

DAGSTER_YAML = Path(__file__).with_name("dagster.yaml")


def write_dagster_home(settings: Settings) -> Path:
    """Return DAGSTER_HOME with our dagster.yaml and LOG_LEVEL in it; the operator's own dagster.yaml stays."""
    home = settings.dagster_directory
    home.mkdir(parents=True, exist_ok=True)
    path = home / "dagster.yaml"
    if not path.exists() or path.read_text().startswith("# The Dagster instance: `viewer-pipeline"):
        template = DAGSTER_YAML.read_text(encoding="utf-8")
        level = f"python_log_level: {settings.log_level.upper()}"
        write_atomically_if_changed(path, template.replace("python_log_level: INFO", level))
    return home


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


def count_flush_runs(instance: dg.DagsterInstance) -> int:
    """Return the number of flush runs in the history."""
    return instance.get_runs_count(dg.RunsFilter(job_name=flush_views.name))


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
