"""What PostgreSQL and Redis have of a soak, and a thread that reads it again and again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import redis

from viewer_pipeline.bench.soak_history import SoakHistory
from viewer_pipeline.bench.soak_producer import VOD_IDS
from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import totals
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

READ_SECONDS = 0.3  # between two reads


@dataclass(frozen=True)
class StoredViews:
    """Totals and counters of every VOD, by key, and when they were read."""

    begin: float
    end: float
    persisted: Counter[str]
    pending: Counter[str]


def read_stored_views(pipelines: Sequence[Settings]) -> StoredViews:
    """Read the counters, then the totals: so their sum contains every view. Raises if a server cannot be reached.

    The pipelines share one Redis. Only its primary knows the counters: after a failover, a connection may lead to the
    demoted server for a moment.
    """
    begin, persisted = time.monotonic(), Counter[str]()
    keys = [settings.counter_prefix + vod_id for settings in pipelines for vod_id in VOD_IDS]
    with connect(pipelines[0].require_redis_url()) as client, client.pipeline(transaction=True) as transaction:
        role, values = transaction.role().mget(keys).execute()
    if role[0] != b"master":
        raise redis.ConnectionError("this server is no primary")
    for settings in pipelines:
        with Ledger.of(settings).connect() as connection:
            views = totals(connection, VOD_IDS)
        persisted.update({settings.counter_prefix + vod_id: views.get(vod_id, 0) for vod_id in VOD_IDS})
    pending = Counter({key: int(value or 0) for key, value in zip(keys, values, strict=True)})
    return StoredViews(begin, time.monotonic(), persisted, pending)


class StoredViewsReader(ThreadUntilExit):
    """Reads one pipeline, and writes each successful read into the history."""

    def __init__(self, settings: Settings, history: SoakHistory) -> None:
        super().__init__()
        self._settings, self._history = settings, history

    def run_until_stopped(self) -> None:
        """Read until `stop` is set; servers may be down meanwhile."""
        while not self.stop.wait(READ_SECONDS):
            with suppress(ViewerPipelineError, redis.RedisError):
                stored = read_stored_views([self._settings])
                self._history.append(
                    "read", stored.begin, stored.end, persisted=stored.persisted, pending=stored.pending
                )
