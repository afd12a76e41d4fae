"""The main job on a throw-away stack: views are sent as producers do, and persisted by Dagster's sensor and daemon."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import orjson
import redis

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import recent_flushes, stored_views_summary, totals
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.orchestration.dagster_instance import count_flush_runs, open_instance
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.stack import Stack
from viewer_pipeline.stores.redis import connect

BURSTS = 8
PIPELINE = 500
SUBSCRIBER_SECONDS = 60.0  # until the worker has subscribed; not part of the time limit

OnStep = Callable[[str], None]
OnTotals = Callable[[int, int], None]


@dataclass(frozen=True)
class DemoReport:
    """Counts of a demo. `lost` and `duplicated` are summed over the VODs that differ."""

    sent: dict[str, int]
    persisted: dict[str, int]
    pending: dict[str, int]  # counted in Redis, not persisted yet
    parked: int
    rejected: int
    flush_runs: int
    flushes: int
    failed_runs: int
    start_seconds: float
    seconds: float  # from the first view sent to the last one persisted

    @property
    def lost(self) -> int:
        """Views that were sent but are neither persisted nor pending."""
        return (Counter(self.sent) - self._persisted_or_pending()).total()

    @property
    def duplicated(self) -> int:
        """Views that are persisted or pending but were not sent."""
        return (self._persisted_or_pending() - Counter(self.sent)).total()

    @property
    def left_in_redis(self) -> int:
        """Views that are pending."""
        return sum(self.pending.values())

    def _persisted_or_pending(self) -> Counter[str]:
        return Counter(self.persisted) + Counter(self.pending)

    @property
    def is_exact(self) -> bool:
        """Whether every VOD has exactly the views that were sent to it, and none are left elsewhere."""
        return self.sent == self.persisted and not (self.left_in_redis or self.parked or self.rejected)


def run_demo(
    settings: Settings,
    views: int,
    vods: int,
    time_limit: float,
    *,
    on_step: OnStep,
    on_totals: OnTotals,
    celery_workers: int = 0,
    kill_worker: bool = False,
) -> DemoReport:
    """Send `views` views of `vods` VODs: a third by INCR, a third by PUBLISH, a third in bursts while flushes run.

    Returns when all views are persisted, or after `time_limit` seconds. `on_step` receives the name of each step,
    `on_totals` the views sent and persisted so far. `celery_workers`: as many execute the runs, not the code server;
    `kill_worker`: one of them is killed once half of the views are sent.
    """
    started = time.monotonic()
    with TemporaryDirectory(prefix="viewer-demo-") as home:
        settings = settings.copy_unvalidated(
            database_url=None,
            target_table=None,
            redis_url=None,
            dagster_database_url=None,
            dagster_home=None,
            celery_broker_url=None,
            pubsub_mode="increment",
            batch_interval_ms=5000,
            viewer_home=Path(home),
        )
        stack = Stack(settings, throw_away=True, background=True, ui=False, celery_workers=celery_workers)
        stack.start(on_step)
        start_seconds = time.monotonic() - started
        try:
            with connect(stack.settings.require_redis_url()) as client:
                fault = stack.celery.kill_one if stack.celery and kill_worker else None
                traffic = _DemoTraffic(stack.settings, client, views, vods, fault)
                report = traffic.send_and_wait_until_persisted(time_limit, on_step, on_totals)
                return replace(report, start_seconds=start_seconds)
        finally:
            stack.stop(lambda _: None)


class _DemoTraffic:
    def __init__(
        self, settings: Settings, client: redis.Redis, views: int, vods: int, fault: Callable[[], str] | None
    ) -> None:
        """`fault`: what is done when half of the bursts are sent; returns the name of what it killed."""
        self._settings, self._client, self._fault = settings, client, fault
        self._store, self._ledger = open_store(client, settings), Ledger.of(settings)
        generator = random.Random(20_000)  # noqa: S311 - the same demo every time
        ids = [f"vod_{number:03d}" for number in range(1, vods + 1)]
        self._views = generator.choices(ids, weights=[1 / (rank + 5) for rank in range(vods)], k=views)
        self.sent: Counter[str] = Counter()

    def send_and_wait_until_persisted(self, time_limit: float, on_step: OnStep, on_totals: OnTotals) -> DemoReport:
        """Send all views, then request a sweep; return when they are persisted, or after `time_limit` seconds."""
        self._wait_until_worker_subscribed()
        on_step("sending views")
        third = len(self._views) // 3
        started = time.monotonic()
        self._send_views(self._views[:third], lambda _: True)
        self._send_views(self._views[third : 2 * third], lambda _: False)
        rest = self._views[2 * third :]
        bursts = [rest[at::BURSTS] for at in range(BURSTS)]
        while (persisted := self._read_persisted()) < len(self._views) and time.monotonic() - started < time_limit:
            on_totals(self.sent.total(), persisted)
            if bursts and (persisted or time.monotonic() - started > time_limit / 2):
                self._send_views(bursts.pop(), lambda number: number % 2 == 0)
                if self._fault is not None and len(bursts) == BURSTS // 2:
                    on_step(f"killed {self._fault()} and its run, if it had one")
                if not bursts:
                    on_step("all sent; requesting a sweep instead of waiting for the next full minute")
                    self._store.request_sweeps("demo: counters raised by INCR alone")
            time.sleep(0.3)
        on_totals(self.sent.total(), persisted)
        return self._read_report(time.monotonic() - started)

    def _send_views(self, vod_ids: list[str], is_sent_by_incr: Callable[[int], bool]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for number, vod_id in enumerate(vod_ids, 1):
            if is_sent_by_incr(number):
                pipe.incr(self._settings.counter_prefix + vod_id)
            else:
                pipe.publish(self._settings.pubsub_channel, orjson.dumps({"vodId": vod_id, "count": 1}))
            if number % PIPELINE == 0:
                pipe.execute()
        pipe.execute()
        self.sent.update(vod_ids)

    def _wait_until_worker_subscribed(self) -> None:
        deadline = time.monotonic() + SUBSCRIBER_SECONDS
        channel = self._settings.pubsub_channel
        while dict(self._client.pubsub_numsub(channel)).get(channel.encode(), 0) == 0:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"no worker subscribed to {channel} within {SUBSCRIBER_SECONDS:.0f} s")
            time.sleep(0.05)

    def _read_persisted(self) -> int:
        with self._ledger.connect() as connection:
            return stored_views_summary(connection).persisted

    def _read_report(self, seconds: float) -> DemoReport:
        ids = sorted(set(self._views))
        with self._ledger.connect() as connection:
            persisted, summary = totals(connection, ids), stored_views_summary(connection)
            flushes = len(recent_flushes(connection, 1_000_000))
        counters = self._client.mget([self._settings.counter_prefix + vod_id for vod_id in ids])
        pending = {vod_id: int(value) for vod_id, value in zip(ids, counters, strict=True) if value}
        with open_instance(self._settings) as instance:
            runs, failed = count_flush_runs(instance), count_flush_runs(instance, dg.DagsterRunStatus.FAILURE)
        parked, rejected = summary.parked, summary.rejected
        return DemoReport(dict(self.sent), persisted, pending, parked, rejected, runs, flushes, failed, 0.0, seconds)
