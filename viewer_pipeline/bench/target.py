"""How fast a flush into a wide table is, beside one UPDATE of the same rows, and how long an editor waits meanwhile."""

from __future__ import annotations

import random
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Self

import psycopg

from viewer_pipeline.bench.rig import Rig, fill, ids_of, rig, write_raw
from viewer_pipeline.flush.request import Request
from viewer_pipeline.target.table import TargetNames

VOD = TargetNames.parse("public.Vod", "id", "viewCount")
TABLE = """
CREATE TABLE public."Vod" (
    "id" text PRIMARY KEY,
    "channelId" text NOT NULL,
    "title" text NOT NULL,
    "description" text,
    "s3Bucket" text NOT NULL,
    "s3Region" text NOT NULL,
    "s3Key" text NOT NULL,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "viewCount" integer NOT NULL DEFAULT 0
);
CREATE INDEX "Vod_channelId_idx" ON public."Vod" ("channelId")
"""
ROWS = """
INSERT INTO public."Vod" ("id", "channelId", "title", "description", "s3Bucket", "s3Region", "s3Key")
SELECT id, 'channel' || number %% 5000, 'The title of ' || id, repeat('words ', 30),
    'streamix-vods', 'eu-central-1', 'vods/' || id || '/index.m3u8'
FROM unnest(%s::text[]) WITH ORDINALITY AS t (id, number)
"""
RAW_UPDATE = """
UPDATE public."Vod" AS t SET "viewCount" = t."viewCount" + s.delta
FROM (SELECT vod_id, delta FROM stage ORDER BY vod_id) AS s WHERE t."id" = s.vod_id
"""
EDIT = """UPDATE public."Vod" SET "title" = "title" || '' WHERE "id" = %s"""
LOAD_AT_ONCE = 100_000


@dataclass(frozen=True)
class TargetFigures:
    """Medians over the runs, in seconds unless the name says otherwise."""

    rows: int  # of the table
    counters: int
    runs: int
    flush: float  # drain to settled: ledger, totals and the table
    upsert: float
    raw: float  # the same rows of the same table by binary COPY and one sorted UPDATE
    ratio: float  # raw / flush: the median over pairs
    counters_per_second: int
    editor_wait: float  # the longest that one edit of a row took while a flush went on, the median over runs
    editor_wait_max: float


def bench_target(rows: int, counters: int, *, runs: int = 5, batch_size: int, flush_max_counters: int) -> TargetFigures:
    """Flush `counters` counters into a table of `rows` rows `runs` times after a warm-up, beside the raw reference."""
    request = Request("bench", "sweep", batch_size=batch_size, flush_max_counters=flush_max_counters)
    ids = ids_of(rows)
    some = sorted(random.Random(7).sample(ids, counters))  # noqa: S311 - the same ones each time
    raws, flushes, upserts, waits = [], [], [], []
    with rig(VOD) as servers:
        _make_table(servers, ids)
        for run in range(runs + 1):
            deltas = [(number * 7 + run) % 500 + 1 for number in range(counters)]
            raws.append(write_raw(servers, some, deltas, RAW_UPDATE))
            fill(servers.client, some, deltas)
            with _Editor(servers, some) as editor:
                seconds = servers.flush(request)
            flushes.append(seconds.flush)
            upserts.append(seconds.upsert)
            waits.append(editor.longest)
    pairs = list(zip(raws[1:], flushes[1:], strict=True))
    flush = statistics.median(flushes[1:])
    return TargetFigures(
        rows, counters, runs, flush, statistics.median(upserts[1:]), statistics.median(raws[1:]),
        statistics.median(raw / one for raw, one in pairs), round(counters / flush),
        statistics.median(waits[1:]), max(waits[1:]),
    )  # fmt: skip


def _make_table(servers: Rig, ids: list[str]) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(TABLE)
        for start in range(0, len(ids), LOAD_AT_ONCE):
            connection.execute(ROWS, [ids[start : start + LOAD_AT_ONCE]])
        connection.execute('VACUUM ANALYZE public."Vod"')


class _Editor:
    """Edits one row after another, as people do who write titles, and keeps the longest time that an edit took."""

    def __init__(self, servers: Rig, ids: list[str]) -> None:
        self.longest = 0.0
        self._servers, self._ids = servers, ids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._edit)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _edit(self) -> None:
        chosen = random.Random(11)  # noqa: S311 - any row will do
        with psycopg.connect(self._servers.database_url, autocommit=True) as connection:
            while not self._stop.wait(0.005):
                started = time.perf_counter()
                connection.execute(EDIT, [chosen.choice(self._ids)])
                self.longest = max(self.longest, time.perf_counter() - started)
