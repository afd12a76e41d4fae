"""Two pipelines on one Redis under injected faults: all processes are killed and paused, Redis fails over."""

from __future__ import annotations

import multiprocessing
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from viewer_pipeline.bench.redis_pair import RedisPair
from viewer_pipeline.bench.soak_history import SoakHistory
from viewer_pipeline.bench.soak_producer import send_views_until_stopped
from viewer_pipeline.bench.stored_views import StoredViews, StoredViewsReader, read_stored_views
from viewer_pipeline.errors import EmbeddedServerError, ViewerPipelineError
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.redis_names import DEFAULT_PREFIX
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import signal_processes
from viewer_pipeline.stack.stack import Stack
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.text_formatting import pluralize

PREFIXES = (DEFAULT_PREFIX, "second:views:")  # of the pipelines: each has a database and channels of its own
INTERVAL_SECONDS = (1.0, 4.0)  # between two faults
PAUSE_SECONDS = (0.5, 5.0)
START_SECONDS = 300  # of a producer
DRAIN_SECONDS = 600.0  # for pending views at the end: after a crash PostgreSQL and Dagster take long to recover
FAILOVER_SHARE = 0.15  # of the faults: failovers of Redis
REDIS = ("redis", "redis replica")
TARGETS = (*REDIS, "postgres", "worker", "daemon", "code-server")
WATCH_SECONDS = 0.3


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


def run_soak(
    settings: Settings, minutes: float, seed: int, on_progress: Callable[[str], None], history: Path | None = None
) -> SoakReport:
    """Run two throw-away pipelines under faults for this time; wait until all views are persisted; compare by VOD.

    Both use one Redis, behind an address that leads to the current primary of its two servers. Views sent, views stored
    and faults are written to the file `history`, if there is one.
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
        return _SoakRun(pair, stacks, minutes, seed, on_progress, history=SoakHistory(history)).run_and_compare()


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
        self,
        pair: RedisPair,
        stacks: list[Stack],
        minutes: float,
        seed: int,
        on_progress: Callable[[str], None],
        *,
        history: SoakHistory,
    ) -> None:
        self._pair, self._stacks, self._history = pair, stacks, history
        self._minutes, self._seed, self._on_progress = minutes, seed, on_progress
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._faults = _Faults()
        self._roles = threading.Lock()  # held during a failover or a restart of a Redis server

    def run_and_compare(self) -> SoakReport:
        """Send views and inject faults, then wait and compare."""
        self._history.start(f"viewer-pipeline soak, seed {self._seed}")
        with (
            self._restarting_ended_processes(),
            self._reading_stored_views(),
            self._running_producers() as stop_and_collect_sent,
        ):
            self._inject_faults()
            sent = stop_and_collect_sent()
            self._on_progress(f"{pluralize(sent.total(), 'view')} sent; waiting until they are persisted")
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
    def _reading_stored_views(self) -> Iterator[None]:
        """Read the totals and counters of each pipeline into the history."""
        with ExitStack() as readers:
            for stack in self._stacks if self._history.path else ():
                readers.enter_context(StoredViewsReader(stack.settings, self._history))
            yield

    @contextmanager
    def _running_producers(self) -> Iterator[Callable[[], Counter[str]]]:
        """Start a producer for each pipeline; yield a function that stops them and returns the views sent, by key.

        All of them have sent views then. Raises EmbeddedServerError if one has not.
        """
        spawn = multiprocessing.get_context("spawn")
        stop, queue, begun = spawn.Event(), spawn.Queue(), [spawn.Event() for _ in self._stacks]
        producers = [
            spawn.Process(
                target=send_views_until_stopped,
                args=(stack.settings, number, self._seed + number, stop, queue),
                kwargs={"begun": begun[number], "history": self._history},
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
            if not all(event.wait(START_SECONDS) for event in begun):
                raise EmbeddedServerError(f"a producer has sent no view after {START_SECONDS} s")
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
                self._kill(stack, name)
            else:
                self._pause(stack, name, self._random.uniform(*PAUSE_SECONDS))

    def _kill(self, stack: Stack, name: str) -> None:
        self._on_progress(f"kill -9 {name}")
        if self._send_signal(stack, name, signal.SIGKILL):
            self._faults.kills[name] += 1
            self._record_fault(f"kill -9 {name}", time.monotonic())

    def _pause(self, stack: Stack, name: str, seconds: float) -> None:
        self._on_progress(f"pause {name} for {seconds:.1f} s")
        begin = time.monotonic()
        try:
            hit = self._send_signal(stack, name, signal.SIGSTOP)
            time.sleep(seconds)
        finally:  # also if a signal ends the soak: a paused process cannot be stopped
            self._send_signal(stack, name, signal.SIGCONT)
        if hit:
            self._faults.pauses[name] += 1
            self._record_fault(f"pause {name}", begin)

    def _try_to_fail_over_redis(self) -> None:
        self._on_progress("fail over Redis without closing connections")
        begin = time.monotonic()
        with self._roles:
            if self._pair.try_to_fail_over():
                self._faults.failovers += 1
                self._record_fault("fail over redis", begin)

    def _record_fault(self, name: str, begin: float) -> None:
        self._history.append("fault", begin, time.monotonic(), name=name)

    def _send_signal(self, stack: Stack, name: str, number: signal.Signals) -> bool:
        """Signal the process itself and its children, not its reaper. Return False if it is down."""
        if name in REDIS:
            server = self._pair.primary if name == "redis" else self._pair.replica
            pids = server.process.descendant_pids()
        else:
            pids = stack.pids_of(name)
        return signal_processes(pids, number)

    def _wait_until_persisted(self, sent: Counter[str]) -> SoakReport:
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            stored = None
            with suppress(ViewerPipelineError, redis.RedisError):
                stored = self._read_all_and_request_sweeps()
            is_complete = stored is not None and stored.persisted == sent and not stored.pending.total()
            if is_complete or time.monotonic() > deadline:
                return self._report(sent, stored)
            time.sleep(0.5)

    def _read_all_and_request_sweeps(self) -> StoredViews:
        settings = [stack.settings for stack in self._stacks]
        stored = read_stored_views(settings)
        with connect(settings[0].require_redis_url()) as client:
            for each in settings:
                open_store(client, each).request_sweeps("soak: end of the run")
        return stored

    def _report(self, sent: Counter[str], stored: StoredViews | None) -> SoakReport:
        """Compare; without `stored`, the servers could not be reached."""
        if stored:
            self._history.append("final", stored.begin, stored.end, persisted=stored.persisted, pending=stored.pending)
        persisted, pending = (stored.persisted, stored.pending.total()) if stored else (Counter[str](), -1)
        lost, duplicated = sent - persisted, persisted - sent
        return SoakReport(
            self._seed, self._minutes, sent.total(), persisted.total(), pending, dict(lost), dict(duplicated),
            dict(self._faults.kills), dict(self._faults.pauses), self._faults.failovers,
        )  # fmt: skip
