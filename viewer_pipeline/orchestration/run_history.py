"""Dagster's own history: runs of ours that are old, with their events, tags and check results, by SQL.

Ours are those with a tag that says so, whatever else runs in the same Dagster under whatever name: `viewer/job`, which
our jobs give their runs, or `viewer/why`, which our assets give a run that no job of ours launched (by *Materialize* in
the UI, for a backfill), and the sensor `run_failure` one that failed before it came to a step.

Dagster itself deletes only ticks. Its API deletes one run in several transactions and leaves the results of asset
checks behind, four rows a run; so sets of runs are deleted here, each set in one transaction. A test counts the rows of
all tables that grow with runs, so an upgrade that changes them goes red.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import dagster as dg
import psycopg

from viewer_pipeline.flush.ledger import postgres_errors
from viewer_pipeline.orchestration.why import WHY
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.postgres import open_connection

RUNS_AT_ONCE = 200  # about 8 000 events
OURS = ["viewer/job", WHY]
DAY_SECONDS = 86_400

# The latest materialization and the latest check result are what the UI shows of an asset (of a partition) now.
LATEST_RUNS = """
    SELECT run_id FROM event_logs WHERE id IN (
        SELECT max(id) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'
        GROUP BY asset_key, partition
    )
    UNION
    SELECT run_id FROM asset_check_executions WHERE id IN (
        SELECT max(id) FROM asset_check_executions GROUP BY asset_key, check_name
    )
"""
OLD_RUNS = """
    SELECT r.run_id FROM runs AS r
    WHERE EXISTS (SELECT FROM run_tags AS t WHERE t.run_id = r.run_id AND t.key = ANY(%(ours)s))
        AND (
            (r.status = 'SUCCESS' AND r.end_time < %(succeeded_before)s)
            OR (r.status IN ('FAILURE', 'CANCELED') AND r.end_time < %(failed_before)s)
        )
        AND r.run_id <> ALL(%(latest)s::text[])
    ORDER BY r.id LIMIT %(limit)s
"""
DELETES = (
    """
    DELETE FROM asset_event_tags WHERE event_id IN (
        SELECT id FROM event_logs
        WHERE run_id = ANY(%(ids)s) AND dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_OBSERVATION')
    )
    """,
    "DELETE FROM asset_check_executions WHERE run_id = ANY(%(ids)s)",
    "DELETE FROM event_logs WHERE run_id = ANY(%(ids)s)",
    "DELETE FROM runs WHERE run_id = ANY(%(ids)s)",  # and their tags with them
)


class Ages(NamedTuple):
    """Days that runs are kept; 0: for ever."""

    succeeded: int
    failed: int

    def before(self, now: float) -> dict[str, float]:
        """Return up to when runs must have ended to be old."""
        succeeded, failed = (now - days * DAY_SECONDS if days else 0.0 for days in self)
        return {"succeeded_before": succeeded, "failed_before": failed}


class Forgotten(NamedTuple):
    """What was deleted."""

    runs: int = 0
    events: int = 0
    ended: bool = True  # else the time was over


@contextmanager
def connect(settings: Settings) -> Iterator[psycopg.Connection]:
    """Open a connection to Dagster's storage."""
    with postgres_errors("Dagster's storage"), open_connection(settings.dagster_storage()) as connection:
        yield connection


def latest_runs(connection: psycopg.Connection) -> list[str]:
    """Return the ids of the runs that stay however old they are. Reads all materializations and results of checks."""
    return [run_id for (run_id,) in connection.execute(LATEST_RUNS)]


def old_runs(
    connection: psycopg.Connection, latest: list[str], ages: Ages, now: float, limit: int | None = None
) -> list[str]:
    """Return the ids of runs of ours that are old and not among the latest, oldest first."""
    rows = connection.execute(OLD_RUNS, {"ours": OURS, "latest": latest, "limit": limit, **ages.before(now)})
    return [run_id for (run_id,) in rows]


def forget_runs(connection: psycopg.Connection, instance: dg.DagsterInstance, ages: Ages, seconds: float) -> Forgotten:
    """Delete old runs of ours, oldest first, for at most so many seconds (and one set of runs)."""
    now, deadline, done = time.time(), time.monotonic() + seconds, Forgotten()
    latest = latest_runs(connection)  # once: a run that is old now becomes the latest of nothing
    while ids := old_runs(connection, latest, ages, now, RUNS_AT_ONCE):
        done = Forgotten(done.runs + len(ids), done.events + _delete(connection, ids))
        for run_id in ids:
            instance.compute_log_manager.delete_logs(prefix=[run_id])
        if time.monotonic() > deadline:
            return done._replace(ended=False)
    return done


def _delete(connection: psycopg.Connection, ids: list[str]) -> int:
    """Delete these runs, all or none; return how many events they had."""
    with connection.transaction():
        gone = [connection.execute(statement, {"ids": ids}).rowcount for statement in DELETES]
    return gone[2]
