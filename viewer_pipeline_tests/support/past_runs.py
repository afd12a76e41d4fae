"""Insert copies of a run into Dagster's history, with its events, tags and check results."""

from __future__ import annotations

import time

import psycopg

# The runs are spread evenly over the day. Each status change updates the row, which leaves dead rows as in production.
COPIES = (
    """
    CREATE TEMPORARY TABLE copies AS
    SELECT gen_random_uuid()::text AS id, %(ended)s + n * %(interval)s AS ended, %(run)s AS of
    FROM generate_series(1, %(n)s) AS n
    """,
    """
    INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, run_body)
    SELECT c.id, r.snapshot_id, r.pipeline_name, 'QUEUED', r.run_body
    FROM copies AS c JOIN runs AS r ON r.run_id = c.of ORDER BY c.ended
    """,
    "UPDATE runs AS r SET status = 'STARTING' FROM copies AS c WHERE r.run_id = c.id",
    "UPDATE runs AS r SET status = 'STARTED', start_time = c.ended FROM copies AS c WHERE r.run_id = c.id",
    "UPDATE runs AS r SET status = 'SUCCESS', end_time = c.ended FROM copies AS c WHERE r.run_id = c.id",
    """
    INSERT INTO run_tags (run_id, key, value)
    SELECT c.id, t.key, t.value FROM copies AS c JOIN run_tags AS t ON t.run_id = c.of
    """,
    """
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
    SELECT c.id, e.event, e.dagster_event_type, e.timestamp, e.step_key, e.asset_key, e.partition
    FROM copies AS c JOIN event_logs AS e ON e.run_id = c.of ORDER BY c.ended, e.id
    """,
    """
    INSERT INTO asset_check_executions (asset_key, check_name, run_id, execution_status, evaluation_event)
    SELECT k.asset_key, k.check_name, c.id, k.execution_status, k.evaluation_event
    FROM copies AS c JOIN asset_check_executions AS k ON k.run_id = c.of
    """,
    "DROP TABLE copies",
)
SIZE = """
    SELECT sum(pg_total_relation_size(oid)) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'dagster'::regnamespace
"""
DAY_SECONDS = 86_400


def insert_day(connection: psycopg.Connection, run_id: str, runs: int, ends: float | None = None) -> None:
    """Insert a day of runs, all copies of one run; the day ends now, or at `ends`."""
    interval = DAY_SECONDS / runs
    params = {"run": run_id, "ended": (ends or time.time()) - interval * runs, "interval": interval, "n": runs}
    with connection.transaction():
        for statement in COPIES:
            connection.execute(statement.encode(), params if "%(" in statement else None)


def table_bytes(connection: psycopg.Connection) -> int:
    """Return the size of Dagster's tables on disk in bytes, with their indexes."""
    row = connection.execute(SIZE).fetchone()
    assert row is not None
    return int(row[0])
