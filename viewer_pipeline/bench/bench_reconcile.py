"""The speed of a reconciliation and of a baseline, beside a plain read of the same rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from viewer_pipeline.bench.bench_servers import BenchServers, bench_servers, read_peak_mb
from viewer_pipeline.bench.bench_target import create_vod_table
from viewer_pipeline.bench.new_process import call_in_new_process
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.baseline import take_baseline_from_target
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)


@dataclass(frozen=True)
class ReconcileStats:
    """Seconds, unless the name says otherwise; one run each."""

    totals: int
    raw: float  # one plain read of the totals
    baseline: float  # taken from the target, where every row gets one
    compare: float  # everything: totals, target, marker, counters; nothing differs
    falsified: int  # totals
    repair: float  # the same comparison, and the repair of these totals
    peak_mb: float  # of the process that compares and repairs


def bench_reconcile(totals: int) -> ReconcileStats:
    """Compare `totals` totals and as many rows of a target with a ledger of as many entries."""
    with bench_servers(set_target_table=True) as servers, TemporaryDirectory(prefix="viewer-bench-") as reports:
        _insert_ledger_and_vods(servers, totals)
        raw = _time_plain_read(servers)
        baseline = call_in_new_process(time_baseline, servers.settings)
        compare, _ = call_in_new_process(time_reconciliation, servers.settings, reports, repair=False)
        with psycopg.connect(servers.database_url) as connection:
            falsified = connection.execute(SQL["falsify_totals"]).rowcount
        repair, peak = call_in_new_process(time_reconciliation, servers.settings, reports, repair=True)
    return ReconcileStats(totals, raw, baseline, compare, falsified, repair, peak)


def _insert_ledger_and_vods(servers: BenchServers, totals: int) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        create_vod_table(connection)
        for name in ("insert_flushes", "insert_batches", "insert_totals", "insert_vods"):
            connection.execute(SQL[name], {"totals": totals})
        connection.execute("VACUUM ANALYZE")
    servers.client.hset(
        "viewer:settled", mapping={"flush": totals // 10_000, "batch": 100, "batches": 100, "epoch": "bench"}
    )


def _time_plain_read(servers: BenchServers) -> float:
    with psycopg.connect(servers.database_url) as connection:
        started = time.perf_counter()
        connection.execute(SQL["read_totals"])
        return time.perf_counter() - started


def time_baseline(settings: Settings) -> float:
    """Take the baseline; return the seconds it took."""
    ledger = Ledger.of(settings)
    started = time.perf_counter()
    with ledger.connect() as connection:
        take_baseline_from_target(connection, ledger)
    return time.perf_counter() - started


def time_reconciliation(settings: Settings, reports_directory: str, *, repair: bool) -> tuple[float, float]:
    """Reconcile once; return the seconds it took, and the peak memory of this process in MB."""
    with Stores.open(settings) as stores:
        result = reconcile(stores, ReconcileRequest("bench", Path(reports_directory), repair=repair, exclusive=True))
    assert result.remaining == 0, result.to_dict()
    return result.seconds, read_peak_mb()
