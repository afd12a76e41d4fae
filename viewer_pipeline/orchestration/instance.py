"""The Dagster instance of this pipeline: its home directory and its history."""

import shutil
from pathlib import Path

import dagster as dg

from viewer_pipeline.orchestration.jobs import flush_views
from viewer_pipeline.settings import Settings

DAGSTER_YAML = Path(__file__).with_name("dagster.yaml")


def prepare_home(settings: Settings) -> Path:
    """Make DAGSTER_HOME with our dagster.yaml, unless the operator put one there; return it."""
    home = settings.dagster_directory
    home.mkdir(parents=True, exist_ok=True)
    theirs = home / "dagster.yaml"
    if not theirs.exists() or theirs.read_text().startswith("# The Dagster instance: `viewer-pipeline"):
        shutil.copyfile(DAGSTER_YAML, theirs)
    return home


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the instance; makes Dagster's tables where they are missing."""
    settings.export()
    return dg.DagsterInstance.from_config(str(prepare_home(settings)))


def flush_runs(instance: dg.DagsterInstance) -> int:
    """Return how many flush runs were launched so far."""
    return instance.get_runs_count(dg.RunsFilter(job_name=flush_views.name))
