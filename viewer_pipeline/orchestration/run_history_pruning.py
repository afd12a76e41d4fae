"""Retention of Dagster's own history: old runs of this pipeline, with their events, tags and check results, by SQL.

A run belongs to this pipeline if it has one of two tags, whatever else runs in the same Dagster: `viewer/job`, set by
our jobs, or `viewer/trigger`, set by our assets on runs of no job of ours (*Materialize* in the UI, backfills) and by
the sensor `run_failure` on runs that failed before their first step.

Dagster itself deletes only ticks. Its API deletes one run in several transactions and leaves check results behind, four
rows a run. Here a set of runs is deleted in one transaction. A test counts the rows of all tables that grow with runs,
so it fails when an upgrade of Dagster changes them.
"""

import time
from typing import NamedTuple

import dagster as dg
import psycopg

from viewer_pipeline.orchestration.materializations import ASSET
from viewer_pipeline.orchestration.run_trigger_tag import TRIGGER_TAG
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)
BATCH_RUNS = 200  # about 8 000 events
OWN_TAGS = ["viewer/job", TRIGGER_TAG]
DAY_SECONDS = 86_400


class RunRetention(NamedTuple):
    """Days that runs are kept; 0: for ever."""

    succeeded: int
    failed: int

    @classmethod
    def of(cls, settings: Settings) -> "RunRetention":
        """Return the ages of the settings."""
        return cls(settings.run_retention_days, settings.failed_run_retention_days)

    def cutoffs(self, now: float) -> dict[str, float]:
        """Return the times before which an ended run is old."""
        succeeded, failed = (now - days * DAY_SECONDS if days else 0.0 for days in self)
        return {"succeeded_before": succeeded, "failed_before": failed}


class PrunedRuns(NamedTuple):
    """How many rows were deleted; `complete` is false if time ran out first."""

    runs: int = 0
    events: int = 0
    complete: bool = True


def find_runs_to_keep(connection: psycopg.Connection) -> list[str]:
    """Return the ids of the runs that are kept however old they are. Reads all materializations and check results."""
    return [run_id for (run_id,) in connection.execute(SQL["latest_runs"])]


def find_old_runs(
    connection: psycopg.Connection, latest: list[str], ages: RunRetention, now: float, limit: int | None = None
) -> list[str]:
    """Return the ids of old runs of this pipeline that are not among the latest, oldest first."""
    parameters = {"tags": OWN_TAGS, "latest": latest, "limit": limit, **ages.cutoffs(now)}
    return [run_id for (run_id,) in connection.execute(SQL["old_runs"], parameters)]


def find_old_reports(
    connection: psycopg.Connection, ages: RunRetention, now: float, limit: int | None = None
) -> list[int]:
    """Return the ids of old events by which the sensor reported that nothing was pending. Kept like successful runs."""
    before = ages.cutoffs(now)["succeeded_before"]
    parameters = {"asset_key": dg.AssetKey(ASSET).to_string(), "before": before, "limit": limit}
    return [event_id for (event_id,) in connection.execute(SQL["old_reports"], parameters)]


def prune_runs(
    connection: psycopg.Connection, instance: dg.DagsterInstance, ages: RunRetention, seconds: float
) -> PrunedRuns:
    """Delete old runs of this pipeline, oldest first; after `seconds`, finish the batch at hand and stop."""
    now, deadline = time.time(), time.monotonic() + seconds
    reports = find_old_reports(connection, ages, now)
    connection.execute(SQL["delete_reports"], {"ids": reports})
    pruned = PrunedRuns(events=len(reports))
    latest = find_runs_to_keep(connection)  # read once: an old run cannot become the latest
    while ids := find_old_runs(connection, latest, ages, now, BATCH_RUNS):
        pruned = PrunedRuns(pruned.runs + len(ids), pruned.events + _delete_runs_and_count_events(connection, ids))
        for run_id in ids:
            instance.compute_log_manager.delete_logs(prefix=[run_id])
        if time.monotonic() > deadline:
            return pruned._replace(complete=False)
    return pruned


def _delete_runs_and_count_events(connection: psycopg.Connection, ids: list[str]) -> int:
    """Delete these runs in one transaction; return the number of their events."""
    with connection.transaction():
        connection.execute(SQL["delete_asset_event_tags"], {"ids": ids})
        connection.execute(SQL["delete_check_results"], {"ids": ids})
        events = connection.execute(SQL["delete_events"], {"ids": ids}).rowcount
        connection.execute(SQL["delete_runs"], {"ids": ids})
    return events
