"""The whole stack under fire: producers at full speed while everything is killed, paused and started again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import redis

from viewer_pipeline.counting.ledger import Ledger, totals
from viewer_pipeline.counting.redis_client import connect
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.local.stack import Stack
from viewer_pipeline.settings import Settings

VODS = 200
PRODUCERS = 2
SENDS = 50  # views in one go
CALM_SECONDS = (1.0, 4.0)  # between two blows
PAUSE_SECONDS = (0.5, 5.0)
DRAIN_SECONDS = 240.0  # for what is pending at the end: after a crash PostgreSQL and Dagster take their time
RETRY_SECONDS = 0.1
TARGETS = ("redis", "postgres", "worker", "daemon", "code server")

# Counts a producer's views once, however often it has to send them: a server that is killed answers nothing, and the
# producer cannot know whether it had counted. KEYS: progress, then counters. ARGV: producer, number of the sending.
SEND = """
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 2, #KEYS do redis.call('INCR', KEYS[i]) end
return 1
"""


@dataclass(frozen=True)
class SoakReport:
    """What came of it."""

    seed: int
    minutes: float
    sent: int
    persisted: int
    pending: int
    lost: dict[str, int]  # VOD -> views
    doubled: dict[str, int]
    kills: dict[str, int]  # process -> how often
    pauses: dict[str, int]

    @property
    def holds(self) -> bool:
        """Whether every VOD has just the views that were sent to it, and nothing is left in Redis."""
        return not (self.lost or self.doubled or self.pending) and self.sent == self.persisted


def run_soak(settings: Settings, minutes: float, seed: int, said: Callable[[str], None]) -> SoakReport:
    """Keep a throw-away stack under fire for so many minutes, then wait until all is persisted, and compare per VOD."""
    with TemporaryDirectory(prefix="viewer-soak-") as home:
        settings = settings.changed(
            target_table=None,
            database_url=None,
            redis_url=None,
            dagster_database_url=None,
            dagster_home=None,
            pubsub_mode="announce",
            batch_interval_ms=5000,
            viewer_home=Path(home),
        )
        stack = Stack(settings, background=True, ui=False)
        stack.start(said)
        try:
            return _Soak(stack, minutes, seed, said).run()
        finally:
            stack.stop(lambda _: None)


class _Soak:
    def __init__(self, stack: Stack, minutes: float, seed: int, said: Callable[[str], None]) -> None:
        self._stack, self._minutes, self._seed, self._said = stack, minutes, seed, said
        self._random = random.Random(seed)  # noqa: S311 - to do the same again
        self._kills: Counter[str] = Counter()
        self._pauses: Counter[str] = Counter()

    def run(self) -> SoakReport:
        """Send and strike, then wait and compare."""
        watched, stop = threading.Event(), multiprocessing.get_context("spawn").Event()
        watch = threading.Thread(target=self._stack.watch, args=[watched], daemon=True)
        watch.start()
        sent: Any = multiprocessing.get_context("spawn").Queue()
        producers = [
            multiprocessing.get_context("spawn").Process(
                target=produce, args=(self._stack.settings, number, self._seed + number, stop, sent)
            )
            for number in range(PRODUCERS)
        ]
        for producer in producers:
            producer.start()
        try:
            self._strike()
            stop.set()
            counted: Counter[str] = Counter()
            for _ in producers:
                counted.update(sent.get(timeout=DRAIN_SECONDS))
        finally:
            stop.set()
            for producer in producers:
                producer.join(10)
                producer.kill()
        self._said(f"{counted.total()} views sent; waiting until they are persisted")
        try:
            return self._await(counted)
        finally:
            watched.set()
            watch.join(30)

    def _strike(self) -> None:
        end = time.monotonic() + self._minutes * 60
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._random.uniform(*CALM_SECONDS)))
            name = self._random.choice(TARGETS)
            if self._random.random() < 0.5:
                self._said(f"kill -9 {name}")
                self._kills[name] += self._signal(name, signal.SIGKILL)
                continue
            seconds = self._random.uniform(*PAUSE_SECONDS)
            self._said(f"pause {name} for {seconds:.1f} s")
            try:
                self._pauses[name] += self._signal(name, signal.SIGSTOP)
                time.sleep(seconds)
            finally:  # also where a signal ends the soak: a process that is paused cannot be stopped
                self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> bool:
        """Signal the process itself and its children, not its guard. False where it is just down."""
        hit = False
        for pid in self._stack.processes(name):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                hit = True
        return hit

    def _await(self, sent: Counter[str]) -> SoakReport:
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            try:
                persisted, pending = self._read(list(sent))
            except (ViewerPipelineError, redis.RedisError):
                persisted, pending = Counter(), -1
            if (persisted == sent and not pending) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        lost, doubled = sent - persisted, persisted - sent
        return SoakReport(
            self._seed, self._minutes, sent.total(), persisted.total(), pending,
            dict(lost), dict(doubled), dict(self._kills), dict(self._pauses),
        )  # fmt: skip

    def _read(self, vod_ids: list[str]) -> tuple[Counter[str], int]:
        settings = self._stack.settings
        url = settings.require_redis_url()
        with connect(url) as client, Ledger(settings.require_database_url()).connect() as connection:
            values: Any = client.mget([settings.counter_prefix + vod_id for vod_id in vod_ids])
            pending = sum(int(value or 0) for value in values)
            RedisStore(client, url, settings.counter_prefix).ask_for_sweep("soak: the end")
            return Counter(totals(connection, vod_ids)), pending


def produce(settings: Settings, number: int, seed: int, stop: Any, sent: Any) -> None:
    """Send views as fast as Redis takes them, each sending until it is answered; hand over what was sent, by VOD."""
    chosen = random.Random(seed)  # noqa: S311 - to do the same again
    counted: Counter[str] = Counter()
    sending = 0
    with connect(settings.require_redis_url(), seconds=2, retries=0) as client:
        while not stop.is_set():
            sending += 1
            vod_ids = [f"vod{chosen.randrange(VODS):03d}" for _ in range(SENDS)]
            keys = ["soak:progress", *(settings.counter_prefix + vod_id for vod_id in vod_ids)]
            _until_answered(partial(client.eval, SEND, len(keys), *keys, number, sending))
            counted.update(vod_ids)
            with suppress(redis.RedisError):  # a hint
                client.publish(settings.pubsub_channel, orjson.dumps({"vodId": vod_ids[0], "count": 1}))
    sent.put(dict(counted))


def _until_answered(send: Callable[[], object]) -> None:
    while True:
        try:
            send()
        except redis.RedisError:
            time.sleep(RETRY_SECONDS)
        else:
            return
