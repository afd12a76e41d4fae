"""Measure roll-up, trending and pruning on a temporary server: `python -m tools.measure_history`.

The numbers in docs/adr/0009 and docs/how-to are from here. It takes some minutes; fewer `--entries` take less time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.history.daily_rollup import roll_up
from viewer_pipeline.history.days import ONE_DAY, Window
from viewer_pipeline.history.pruning import prune_ledger
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer

DAY, ZONE = date(2026, 3, 1), ZoneInfo("UTC")
FOREVER = [Marker(10**9, 1, 1)]
# A day of flushes of 100 batches of 100 counters, as with the defaults; a million VODs that differ in popularity.
FLUSHES = """
    INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, format)
    SELECT s, gen_random_uuid(), 'run', 'sweep', %(noon)s::timestamptz + s * interval '1 ms', 10000, 0, 100, 2
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS s
"""
BATCHES = """
    INSERT INTO viewer.flush_batch (seq, batch, vod_ids, deltas)
    SELECT s, b, v.ids, v.deltas
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS s CROSS JOIN generate_series(1, 100) AS b
    CROSS JOIN LATERAL (
        SELECT array_agg('vod' || lpad((1000000 * power(random(), 2))::int::text, 20, '0')), array_agg(1 + n %% 3)
        FROM generate_series(1, 100) AS n WHERE s + b > 0
    ) AS v (ids, deltas)
"""
SET_VIEWS = """
    UPDATE viewer.flush AS f SET views = v.views
    FROM (SELECT seq, sum(d) AS views FROM viewer.flush_batch, unnest(deltas) AS d GROUP BY seq) AS v
    WHERE f.seq = v.seq
"""
TOP = "SELECT * FROM viewer.trending ORDER BY views_7d DESC LIMIT 20"
ONE_VOD = "SELECT * FROM viewer.trending WHERE vod_id = 'vod7'"
HISTORY = """
    INSERT INTO viewer.daily_views (day, vod_id, views)
    SELECT (now() AT TIME ZONE 'UTC')::date - d, 'vod' || n, 1 + (n * 7919) %% 1000
    FROM generate_series(0, 99) AS d, generate_series(1, %(vods)s) AS n
"""
ROLLED_UP = """
    INSERT INTO viewer.daily_rollup (day, starts_at, ends_at, time_zone, last_flush, vods, views)
    SELECT day, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC', 'UTC', 0, 0, 0
    FROM (SELECT (now() AT TIME ZONE 'UTC')::date - d AS day FROM generate_series(0, 99) AS d) AS days
    ON CONFLICT DO NOTHING
"""


def print_line(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def timed(label: str, call: Any, *arguments: Any) -> Any:
    """Call, and print the time it took."""
    started = time.perf_counter()
    result = call(*arguments)
    print_line(f"{label}: {time.perf_counter() - started:.2f} s")
    return result


def fill(connection: psycopg.Connection, entries: int) -> None:
    """Write a day with this number of ledger entries, and one flush of the day after."""
    flushes = entries // 10_000
    for noon, first, last in ((f"{DAY} 12:00Z", 1, flushes), (f"{DAY + ONE_DAY} 12:00Z", flushes + 1, flushes + 1)):
        for statement in (FLUSHES, BATCHES):
            connection.execute(statement, {"noon": noon, "first": first, "last": last})
    connection.execute(SET_VIEWS)
    connection.execute("VACUUM ANALYZE viewer.flush_batch")


def measure_trending(connection: psycopg.Connection, rows: int) -> None:
    """Show the plans and times of the view, on 100 days of daily views."""
    connection.execute("TRUNCATE viewer.daily_views")
    connection.execute(HISTORY, {"vods": rows // 100})
    connection.execute(ROLLED_UP)
    connection.execute("VACUUM ANALYZE viewer.daily_views")
    for query in (TOP, ONE_VOD):
        for _ in range(2):
            plan = [
                line for (line,) in connection.execute(f"EXPLAIN (ANALYZE, COSTS off, TIMING off) {query}".encode())
            ]
        print_line(f"--- {rows} rows of daily_views: {query}")
        print_line("\n".join(plan))


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000_000)
    entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as home:
        server = PostgresServer(Path(home), port=find_free_port(), throw_away=True)
        server.start()
        try:
            migrate(server.url, with_dagster=False)
            with Ledger(server.url).connect() as connection:
                connection.execute("SET statement_timeout = 0")
                connection.reply_seconds = 3600  # type: ignore[attr-defined]  # for fill()
                timed(f"filling {entries} entries", fill, connection, entries)
                window = Window(DAY, DAY + ONE_DAY)
                for _ in range(2):
                    timed(f"rolling up a day of {entries} entries", roll_up, connection, window, ZONE)
                temp = connection.execute(
                    "SELECT temp_bytes >> 20 FROM pg_stat_database WHERE datname = current_database()"
                )
                print_line(f"temporary files: {temp.fetchone()} MB")
                pruned = timed("pruning that day", prune_ledger, connection, DAY + ONE_DAY, FOREVER, 3600.0, ZONE)
                print_line(f"{pruned}")
                timed("VACUUM", connection.execute, "VACUUM viewer.flush_batch")
                measure_trending(connection, 1_000_000)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
