"""Two pipelines on one Redis under injected faults: all processes are killed and paused, Redis fails over."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import redis

from viewer_pipeline.bench.redis_pair import RedisPair
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import totals
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.redis_names import DEFAULT_PREFIX
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.stack import Stack
from viewer_pipeline.stores.redis import connect

PREFIXES = (DEFAULT_PREFIX, "second:views:")  # of the pipelines: each has a database and channels of its own
VODS = 200
SENDS = 50  # views in one script
INTERVAL_SECONDS = (1.0, 4.0)  # between two faults
PAUSE_SECONDS = (0.5, 5.0)
DRAIN_SECONDS = 240.0  # for pending views at the end: after a crash PostgreSQL and Dagster take long to recover
RETRY_SECONDS = 0.1
FAILOVER_SHARE = 0.15  # of the faults: failovers of Redis
REDIS = ("redis", "redis replica")
TARGETS = (*REDIS, "postgres", "worker", "daemon", "code-server")
WATCH_SECONDS = 0.3

# Counts the views of a request once, however often the producer sends it: if a server is killed, the producer cannot
# know whether the request was executed. KEYS: progress, then counters. ARGV: producer, number of the request.
SEND = """
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 2, #KEYS do redis.call('INCR', KEYS[i]) end
return 1
"""


@dataclass(frozen=True)
class SoakReport:
    """Result of a soak; VODs are named by their complete key."""

    seed: int
    minutes: float
    sent: int
    persisted: int
    pending: int
    lost: dict[str, int]  # VOD -> views
    duplicated: dict[str, int]
    kills: dict[str, int]  # process -> how often
    pauses: dict[str, int]
    failovers: int  # of Redis, without closing connections

    @property
    def is_exact(self) -> bool:
        """Whether every VOD has exactly the views that were sent to it, and none are left in Redis."""
        return not (self.lost or self.duplicated or self.pending) and self.sent == self.persisted


def run_soak(settings: Settings, minutes: float, seed: int, on_progress: Callable[[str], None]) -> SoakReport:
    """Run two throw-away pipelines under faults for this time; wait until all views are persisted; compare by VOD.

    Both use one Redis, behind an address that leads to the current primary of its two servers.
    """
    with TemporaryDirectory(prefix="viewer-soak-") as home, ExitStack() as stack:
        pair = RedisPair(Path(home))
        on_progress("starting two Redis servers")
        pair.start()
        stack.callback(pair.stop)
        stacks = []
        for number, prefix in enumerate(PREFIXES):
            pipeline = Stack(
                _settings_of_pipeline(settings, prefix, pair.url, Path(home, str(number))), background=True, ui=False
            )
            pipeline.start(on_progress)
            stack.callback(pipeline.stop, lambda _: None)
            stacks.append(pipeline)
        return _SoakRun(pair, stacks, minutes, seed, on_progress).run_and_compare()


def _settings_of_pipeline(settings: Settings, prefix: str, redis_url: str, home: Path) -> Settings:
    return settings.copy_unvalidated(
        target_table=None,
        database_url=None,
        redis_url=redis_url,
        dagster_database_url=None,
        dagster_home=None,
        counter_prefix=prefix,
        pubsub_channel=f"{prefix}updates",
        totals_channel=f"{prefix}totals",
        pubsub_mode="announce",
        batch_interval_ms=5000,
        viewer_home=home,
    )


@dataclass
class _Faults:
    """Number of injected faults, by process."""

    kills: Counter[str] = field(default_factory=Counter)
    pauses: Counter[str] = field(default_factory=Counter)
    failovers: int = 0


class _SoakRun:
    def __init__(
        self, pair: RedisPair, stacks: list[Stack], minutes: float, seed: int, on_progress: Callable[[str], None]
    ) -> None:
        self._pair, self._stacks, self._minutes, self._seed, self._on_progress = (
            pair,
            stacks,
            minutes,
            seed,
            on_progress,
        )
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._faults = _Faults()
        self._roles = threading.Lock()  # held during a failover or a restart of a Redis server

    def run_and_compare(self) -> SoakReport:
        """Send views and inject faults, then wait and compare."""
        with self._restarting_ended_processes(), self._running_producers() as stop_and_collect_sent:
            self._inject_faults()
            sent = stop_and_collect_sent()
            self._on_progress(f"{sent.total()} views sent; waiting until they are persisted")
            return self._wait_until_persisted(sent)

    @contextmanager
    def _restarting_ended_processes(self) -> Iterator[None]:
        """Restart processes that end."""
        ended = threading.Event()
        threads = [
            threading.Thread(target=stack.restart_ended_until, args=[ended], daemon=True) for stack in self._stacks
        ]
        threads.append(threading.Thread(target=self._restart_redis_until, args=[ended], daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join(30)

    def _restart_redis_until(self, ended: threading.Event) -> None:
        while not ended.wait(WATCH_SECONDS):
            with self._roles:
                self._pair.restart_ended_servers()

    @contextmanager
    def _running_producers(self) -> Iterator[Callable[[], Counter[str]]]:
        """Start a producer for each pipeline; yield a function that stops them and returns the views sent, by key."""
        spawn = multiprocessing.get_context("spawn")
        stop, queue = spawn.Event(), spawn.Queue()
        producers = [
            spawn.Process(
                target=send_views_until_stopped, args=(stack.settings, number, self._seed + number, stop, queue)
            )
            for number, stack in enumerate(self._stacks)
        ]
        for producer in producers:
            producer.start()

        def stop_and_collect_sent() -> Counter[str]:
            stop.set()
            sent: Counter[str] = Counter()
            for _ in producers:
                sent.update(queue.get(timeout=DRAIN_SECONDS))
            return sent

        try:
            yield stop_and_collect_sent
        finally:
            stop.set()
            for producer in producers:
                producer.join(10)
                producer.kill()

    def _inject_faults(self) -> None:
        end = time.monotonic() + self._minutes * 60
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._random.uniform(*INTERVAL_SECONDS)))
            if self._random.random() < FAILOVER_SHARE:
                self._try_to_fail_over_redis()
                continue
            name, stack = self._random.choice(TARGETS), self._random.choice(self._stacks)
            if self._random.random() < 0.5:
                self._on_progress(f"kill -9 {name}")
                self._faults.kills[name] += self._send_signal(stack, name, signal.SIGKILL)
                continue
            seconds = self._random.uniform(*PAUSE_SECONDS)
            self._on_progress(f"pause {name} for {seconds:.1f} s")
            try:
                self._faults.pauses[name] += self._send_signal(stack, name, signal.SIGSTOP)
                time.sleep(seconds)
            finally:  # also if a signal ends the soak: a paused process cannot be stopped
                self._send_signal(stack, name, signal.SIGCONT)

    def _try_to_fail_over_redis(self) -> None:
        self._on_progress("fail over Redis without closing connections")
        with self._roles:
            self._faults.failovers += self._pair.try_to_fail_over()

    def _send_signal(self, stack: Stack, name: str, number: signal.Signals) -> bool:
        """Signal the process itself and its children, not its reaper. Return False if it is down."""
        hit = False
        if name in REDIS:
            server = self._pair.primary if name == "redis" else self._pair.replica
            pids = server.process.descendant_pids()
        else:
            pids = stack.pids_of(name)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                hit = True
        return hit

    def _wait_until_persisted(self, sent: Counter[str]) -> SoakReport:
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            try:
                persisted, pending = self._read_stored_and_request_sweep(sent)
            except (ViewerPipelineError, redis.RedisError):
                persisted, pending = Counter(), -1
            if (persisted == sent and not pending) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        lost, duplicated = sent - persisted, persisted - sent
        return SoakReport(
            self._seed, self._minutes, sent.total(), persisted.total(), pending, dict(lost), dict(duplicated),
            dict(self._faults.kills), dict(self._faults.pauses), self._faults.failovers,
        )  # fmt: skip

    def _read_stored_and_request_sweep(self, sent: Counter[str]) -> tuple[Counter[str], int]:
        """Return the persisted views by key, and the number of pending views."""
        persisted, pending = Counter[str](), 0
        for stack in self._stacks:
            settings, prefix = stack.settings, stack.settings.counter_prefix
            vod_ids = [key.removeprefix(prefix) for key in sent if key.startswith(prefix)]
            with connect(settings.require_redis_url()) as client, Ledger.of(settings).connect() as connection:
                values: Any = client.mget([prefix + vod_id for vod_id in vod_ids])
                pending += sum(int(value or 0) for value in values)
                RedisStore.of(client, settings).request_sweep("soak: end of the run")
                persisted.update({prefix + vod_id: views for vod_id, views in totals(connection, vod_ids).items()})
        return persisted, pending


def send_views_until_stopped(settings: Settings, producer_number: int, seed: int, stop: Any, sent_queue: Any) -> None:
    """Send views as fast as possible, each request until Redis replies; put the views sent, by key, into `sent`."""
    generator = random.Random(seed)  # noqa: S311 - repeatable
    counted: Counter[str] = Counter()
    request = 0
    with connect(settings.require_redis_url(), seconds=2, retries=0) as client:
        while not stop.is_set():
            request += 1
            vod_ids = [f"vod{generator.randrange(VODS):03d}" for _ in range(SENDS)]
            counters = [settings.counter_prefix + vod_id for vod_id in vod_ids]
            keys = ["soak:progress", *counters]
            _retry_until_sent(partial(client.eval, SEND, len(keys), *keys, producer_number, request))
            counted.update(counters)
            with suppress(redis.RedisError):  # a hint
                client.publish(settings.pubsub_channel, orjson.dumps({"vodId": vod_ids[0], "count": 1}))
    sent_queue.put(dict(counted))


def _retry_until_sent(send: Callable[[], object]) -> None:
    while True:
        try:
            send()
        except redis.RedisError:
            time.sleep(RETRY_SECONDS)
        else:
            return
