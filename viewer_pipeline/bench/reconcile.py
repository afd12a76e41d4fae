"""How fast totals are compared with the ledger, and a baseline is taken, beside a plain read of the same rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from viewer_pipeline.bench.rig import PREFIX, Rig, peak_mb, rig
from viewer_pipeline.bench.target import TABLE, VOD
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.baseline import take_from_target
from viewer_pipeline.reconcile.compare import ReconcileRequest, reconcile
from viewer_pipeline.stores.redis import connect

# Ids as long as a cuid, each in one flush of 10 000; in another order than that of the totals, as they come.
ID = "'clx' || lpad(((i::bigint * {}) %% %(totals)s)::text, 8, '0') || 'k3j4h5g6f7d8s9'"
FLUSHED, COUNTED = ID.format(7919), ID.format(104_729)
FLUSHES = """
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, format)
SELECT s, gen_random_uuid(), 'bench', 'sweep', now(), 10000, 50000, 100, 2
FROM generate_series(1, %(totals)s / 10000) AS s
"""
BATCHES = """
INSERT INTO viewer.flush_batch
SELECT s, b, array(
    SELECT FLUSHED
    FROM generate_series((s - 1) * 10000 + (b - 1) * 100, (s - 1) * 10000 + b * 100 - 1) AS i
), array_fill(5::bigint, ARRAY[100])
FROM generate_series(1, %(totals)s / 10000) AS s, generate_series(1, 100) AS b
""".replace("FLUSHED", FLUSHED)
TOTALS = """
INSERT INTO viewer.vod_view_counts (vod_id, view_count, last_flush, updated_at)
SELECT COUNTED, 5, 1, now() FROM generate_series(0, %(totals)s - 1) AS i
""".replace("COUNTED", COUNTED)
VODS = """
INSERT INTO public."Vod" ("id", "channelId", "title", "s3Bucket", "s3Region", "s3Key", "viewCount")
SELECT COUNTED, 'channel', 'A title', 'vods', 'eu-central-1', 'index.m3u8', 105
FROM generate_series(0, %(totals)s - 1) AS i
""".replace("COUNTED", COUNTED)
SPOIL = "UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE starts_with(vod_id, 'clx000')"
RAW = "SELECT count(*), sum(view_count), max(vod_id) FROM viewer.vod_view_counts"


@dataclass(frozen=True)
class ReconcileFigures:
    """Seconds, unless the name says otherwise; one run each."""

    totals: int
    raw: float  # one plain read of the totals
    baseline: float  # taken from the target, of which every row gets one
    compare: float  # all of it: totals, target, marker, counters; nothing differs
    spoiled: int  # totals that were falsified
    repair: float  # the same comparison, and mending those
    peak_mb: float  # of the process that compares and mends


def bench_reconcile(totals: int) -> ReconcileFigures:
    """Compare `totals` totals and as many rows of a target with a ledger of as many entries."""
    with rig(VOD) as servers, TemporaryDirectory(prefix="viewer-bench-") as reports:
        _fill(servers, totals)
        raw = _raw(servers)
        baseline = servers.process.submit(baseline_once, servers.database_url).result()
        compare, _ = _reconcile(servers, reports, repair=False)
        with psycopg.connect(servers.database_url) as connection:
            spoiled = connection.execute(SPOIL).rowcount
        repair, peak = _reconcile(servers, reports, repair=True)
    return ReconcileFigures(totals, raw, baseline, compare, spoiled, repair, peak)


def _fill(servers: Rig, totals: int) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(TABLE)
        for statement in (FLUSHES, BATCHES, TOTALS, VODS):
            connection.execute(statement, {"totals": totals})
        connection.execute("VACUUM ANALYZE")
    servers.client.hset(
        "viewer:settled", mapping={"flush": totals // 10_000, "batch": 100, "batches": 100, "epoch": "bench"}
    )


def _raw(servers: Rig) -> float:
    with psycopg.connect(servers.database_url) as connection:
        started = time.perf_counter()
        connection.execute(RAW)
        return time.perf_counter() - started


def _reconcile(servers: Rig, reports: str, *, repair: bool) -> tuple[float, float]:
    return servers.process.submit(reconcile_once, servers.database_url, servers.redis_url, reports, repair).result()


def baseline_once(database_url: str) -> float:
    """Take the baseline; return the seconds it took."""
    ledger = Ledger(database_url, VOD)
    started = time.perf_counter()
    with ledger.connect() as connection:
        take_from_target(connection, ledger)
    return time.perf_counter() - started


def reconcile_once(database_url: str, redis_url: str, reports: str, repair: bool) -> tuple[float, float]:
    """Reconcile once; return the seconds it took, and the peak memory of this process in MB."""
    with connect(redis_url) as client:
        stores = Stores(RedisStore(client, redis_url, PREFIX), Ledger(database_url, VOD))
        result = reconcile(stores, ReconcileRequest("bench", Path(reports), repair=repair, exclusive=True))
    assert result.remaining == 0, result.to_dict()
    return result.seconds, peak_mb()
