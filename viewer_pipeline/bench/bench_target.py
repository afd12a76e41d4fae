"""The speed of a flush into a wide table, beside one UPDATE of the same rows, and the wait of an editor meanwhile."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass

import psycopg

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, increment_counters, make_ids
from viewer_pipeline.bench.complete_run import run_until_flushed
from viewer_pipeline.bench.raw_write import time_raw_write
from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit
from viewer_pipeline.flush.flush_request import FlushRequest
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)

BATCH_ROWS = 100_000


@dataclass(frozen=True)
class TargetStats:
    """Medians over the runs, in seconds unless the name says otherwise."""

    rows: int  # of the table
    counters: int
    runs: int
    flush: float  # drain to settled: ledger, totals and the table
    upsert: float
    raw: float  # the same rows of the same table by binary COPY and one sorted UPDATE
    ratio: float  # raw / flush: the median over pairs
    counters_per_second: int
    editor_wait: float  # the longest duration of one edit of a row during a flush, the median over runs
    editor_wait_max: float


def bench_target(request: FlushRequest, rows: int, counters: int, *, runs: int) -> TargetStats:
    """Flush `counters` counters into a table of `rows` rows `runs` times after a warm-up, beside the raw reference."""
    ids = make_ids(rows)
    flushed_ids = sorted(random.Random(7).sample(ids, counters))  # noqa: S311 - the same ones each time
    raws, flushes, upserts, waits = [], [], [], []
    with bench_servers(set_target_table=True) as servers:
        create_filled_table(servers, ids)
        for run in range(runs + 1):
            deltas = [(number * 7 + run) % 500 + 1 for number in range(counters)]
            raws.append(time_raw_write(servers.database_url, flushed_ids, deltas, SQL["update_raw"]))
            increment_counters(servers.client, flushed_ids, deltas)
            with _RowEditor(servers, flushed_ids) as editor:
                seconds = run_until_flushed(servers, request, counters).seconds
            flushes.append(seconds.flush)
            upserts.append(seconds.commit)
            waits.append(editor.longest_seconds)
    pairs = list(zip(raws[1:], flushes[1:], strict=True))
    flush = statistics.median(flushes[1:])
    return TargetStats(
        rows, counters, runs, flush, statistics.median(upserts[1:]), statistics.median(raws[1:]),
        statistics.median(raw / seconds for raw, seconds in pairs), round(counters / flush),
        statistics.median(waits[1:]), max(waits[1:]),
    )  # fmt: skip


def create_vod_table(connection: psycopg.Connection) -> None:
    """Create the table `public."Vod"` with its index."""
    connection.execute(SQL["create_vod_table"])
    connection.execute(SQL["create_vod_index"])


def create_filled_table(servers: BenchServers, ids: list[str]) -> None:
    """Create that table with a row for each id, as after autovacuum."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        create_vod_table(connection)
        for rows in chunks(ids, BATCH_ROWS):
            connection.execute(SQL["insert_vods"], {"ids": list(rows)})
        connection.execute('VACUUM ANALYZE public."Vod"')


class _RowEditor(ThreadUntilExit):
    """Edits one row after another on a thread, and keeps the longest duration of an edit."""

    def __init__(self, servers: BenchServers, ids: list[str]) -> None:
        super().__init__()
        self.longest_seconds = 0.0
        self._servers, self._ids = servers, ids

    def run_until_stopped(self) -> None:
        generator = random.Random(11)  # noqa: S311 - any row will do
        with psycopg.connect(self._servers.database_url, autocommit=True) as connection:
            while not self.stop.wait(0.005):
                started = time.perf_counter()
                connection.execute(SQL["edit_vod"], {"id": generator.choice(self._ids)})
                self.longest_seconds = max(self.longest_seconds, time.perf_counter() - started)
