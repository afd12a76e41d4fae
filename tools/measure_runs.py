"""Measure the size of Dagster's history: `python -m tools.measure_runs`.

The numbers in docs/how-to/retention.md are from here. A temporary stack runs one flush; its rows are copied for every
run of every simulated day, and at the end of each day the retention job deletes old ones. `--vacuum` vacuums then;
otherwise autovacuum does what is due by the server's defaults before the next day begins.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import psycopg

from tools.measure_history import print_line
from viewer_pipeline.cli.in_process_runs import run_flush
from viewer_pipeline.migrations.migrate import migrate_all
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.orchestration.retention_jobs import MAX_SECONDS
from viewer_pipeline.orchestration.run_history_pruning import RunRetention, prune_runs
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.postgres import connect_dagster_storage
from viewer_pipeline.stores.redis import connect as connect_redis
from viewer_pipeline_tests.support.past_runs import DAY_SECONDS, insert_day, table_bytes
from viewer_pipeline_tests.support.waiting import wait_until

# A simulated day takes seconds, in which autovacuum must run whenever something is due.
SERVER = ("autovacuum=on", "autovacuum_naptime=1s", "max_wal_size=4GB")
VODS = 100
DUE = """
    SELECT count(*) FROM (
        SELECT oid, reltuples FROM pg_class WHERE relnamespace = 'dagster'::regnamespace AND relkind = 'r'
        UNION ALL
        SELECT t.oid, t.reltuples FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid
        WHERE c.relnamespace = 'dagster'::regnamespace
    ) AS r JOIN pg_stat_all_tables AS s ON s.relid = r.oid
    WHERE s.n_dead_tup > 50 + 0.2 * greatest(r.reltuples, 0)
        OR s.n_ins_since_vacuum > 1000 + 0.2 * greatest(r.reltuples, 0)
        OR EXISTS (SELECT FROM pg_stat_progress_vacuum)
"""


def is_vacuumed(connection: psycopg.Connection) -> bool:
    """Whether autovacuum has nothing to do."""
    row = connection.execute(DUE.encode()).fetchone()
    return row is not None and row[0] == 0


def one_day(
    connection: psycopg.Connection, instance: dg.DagsterInstance, run_id: str, runs: int, ends: float
) -> tuple[int, float]:
    """Write the runs of a day, and delete old ones at its end; return the number of deleted runs and the seconds."""
    insert_day(connection, run_id, runs, ends)
    started = time.perf_counter()
    with patch("time.time", lambda: ends):
        pruned = prune_runs(connection, instance, RunRetention(7, 30), MAX_SECONDS)
    assert pruned.complete
    return pruned.runs, time.perf_counter() - started


def main() -> None:
    """Simulate the days."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--runs", type=int, default=2880, help="per day; 2880: one every 30 s")
    parser.add_argument("--vacuum", action="store_true", help="VACUUM each day instead of autovacuum")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, ExitStack() as servers:
        postgres = PostgresServer(Path(home), port=find_free_port(), throw_away=True, settings=SERVER)
        redis = RedisServer(Path(home), port=find_free_port(), append_only=False)
        for server in (postgres, redis):
            servers.callback(server.stop)
            server.start()
        settings = Settings(_env_file=None, database_url=postgres.url, redis_url=redis.url, viewer_home=Path(home))
        migrate_all(settings)
        with connect_redis(redis.url) as client:
            client.mset({f"vod:views:vod{number}": 3 for number in range(VODS)})
        with open_instance(settings) as instance, connect_dagster_storage(settings) as connection:
            done = run_flush(instance, settings, FlushMode.sweep, trigger="measured")
            assert done.success, done
            connection.execute("UPDATE runs SET end_time = 'infinity'")  # it is copied every day
            events = len(instance.all_logs(done.run_id))
            print_line(f"{options.runs} runs a day of {events} events each, kept 7 days")
            ends = time.time()
            for day in range(1, options.days + 1):
                gone, seconds = one_day(connection, instance, done.run_id, options.runs, ends + day * DAY_SECONDS)
                if options.vacuum:
                    connection.execute("VACUUM")
                else:
                    connection.execute(
                        "SELECT pg_stat_force_next_flush()"
                    )  # report deletions before autovacuum is checked
                    wait_until(lambda: is_vacuumed(connection), 600, "autovacuum to be done")
                runs = instance.get_runs_count()
                sizes = f"{gone} deleted in {seconds:.1f} s, {runs} kept, {table_bytes(connection) / 1e6:.0f} MB"
                print_line(f"day {day}: {sizes}")


if __name__ == "__main__":
    main()
