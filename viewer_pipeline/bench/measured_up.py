"""`viewer-pipeline up` as a user starts it, in a temporary directory, for benchmarks that measure all its processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import orjson
import psycopg
import redis

from viewer_pipeline.bench.process_tree import find_by_command, read_descendants, sum_cpu_seconds, sum_pss_mb
from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.home_lock_and_server_urls import read_settings_of_running_up
from viewer_pipeline.settings import COMPLETE_VARIABLE, Settings, environment_without_settings
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.redis import connect

T = TypeVar("T")

SQL = named_queries(__name__)
CHANNEL = Settings.model_fields["pubsub_channel"].default
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.05
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Usage:
    """Totals of all processes at a time, or the differences between two times."""

    at: float  # seconds since 1970
    cpu_seconds: float
    sessions: int  # of PostgreSQL
    runs: int

    def since(self, earlier: Usage) -> Usage:
        """Return the differences."""
        return Usage(
            self.at - earlier.at,
            self.cpu_seconds - earlier.cpu_seconds,
            self.sessions - earlier.sessions,
            self.runs - earlier.runs,
        )


@dataclass(frozen=True)
class MeasuredUp:
    """A running `up`, and one connection to each of its servers, which is kept: it adds no session."""

    process: ManagedProcess
    home: Path
    started_at: float
    connection: psycopg.Connection
    client: redis.Redis
    beside: list[ManagedProcess] = field(default_factory=list)  # processes that count as well, such as Celery workers

    def publish_view(self, vod_id: str) -> float:
        """Publish one view; return when."""
        published_at = time.time()
        self.client.publish(CHANNEL, orjson.dumps({"vodId": vod_id, "count": 1}))
        return published_at

    def has_subscriber(self) -> bool:
        """Whether the worker is subscribed."""
        return bool(self.client.pubsub_numsub(CHANNEL)[0][1])

    def has_started(self) -> bool:
        """Whether `up` has printed its banner or the event in its place, the last step of a start."""
        text = self.process.log.read_text(errors="replace") if self.process.log is not None else ""
        return "Dagster UI " in text or '"event": "up_started"' in text

    def is_idle(self) -> bool:
        """Whether no run is queued or active. Raises EmbeddedServerError if a run has failed."""
        _, _, active, failed = fetch_one(self.connection, SQL["read_sessions_and_runs"])
        if failed:
            raise EmbeddedServerError(f"{failed} runs failed; the end of the log:\n{self.process.log_tail()}")
        return not active

    def read_usage(self) -> Usage:
        """Return the totals so far."""
        sessions, runs, _, _ = fetch_one(self.connection, SQL["read_sessions_and_runs"])
        roots = [process.reaper_pid for process in (self.process, *self.beside)]
        return Usage(time.time(), sum(map(sum_cpu_seconds, roots)), sessions, runs)

    def read_persisted_at(self) -> dict[str, float]:
        """Return when the total of each VOD was written."""
        return dict(self.connection.execute(SQL["read_persisted_at"]).fetchall())

    def read_tick_to_success(self, since: float) -> list[float]:
        """Return the seconds from tick to success of each run that the sensor has launched since then."""
        return [seconds for (seconds,) in self.connection.execute(SQL["read_tick_to_success"], {"since": since})]

    def read_pss_mb(self) -> tuple[float, float]:
        """Return the memory of all processes and that of the worker."""
        pids = read_descendants(self.process.reaper_pid)
        return sum_pss_mb(pids), sum_pss_mb(find_by_command(pids, "viewer_pipeline.cli worker"))

    def wait_for(self, condition: Callable[[], object], expected: str) -> None:
        """Wait until the condition holds. Raises EmbeddedServerError if `up` ends, or after five minutes."""
        wait_for(self.process, condition, expected)


@contextmanager
def start_up(*, interval_ms: int, warm_runs: bool, **settings: str) -> Iterator[MeasuredUp]:
    """Start `up` with its default settings but these, whatever the environment says; stop it with the context."""
    with TemporaryDirectory(prefix="viewer-bench-") as directory:
        home = Path(directory, "home")
        process = ManagedProcess(
            "up",
            [sys.executable, "-m", "viewer_pipeline.cli", "up"],
            environment=environment_of_up(
                home, BATCH_INTERVAL_MS=str(interval_ms), WARM_RUNS=str(warm_runs).lower(), **settings
            ),
            log=Path(directory, "up.log"),
            grace_seconds=STOP_SECONDS,
        )
        started_at = time.time()
        process.start()
        try:
            urls = wait_for(process, lambda: read_settings_of_running_up(home), "both servers")
            with (
                psycopg.connect(urls["database_url"], autocommit=True) as connection,
                connect(urls["redis_url"]) as client,
            ):
                yield MeasuredUp(process, home, started_at, connection, client)
        finally:
            process.stop()


def wait_for(process: ManagedProcess, condition: Callable[[], T], expected: str) -> T:
    """Return the first true value. Raises EmbeddedServerError if the process ends, or after five minutes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        if process.exit_status() is not None or time.monotonic() > deadline:
            raise EmbeddedServerError(f"`up` without {expected}; the end of its log:\n{process.log_tail()}")
        time.sleep(POLL_SECONDS)
    return value


def environment_of_up(home: Path, **settings: str) -> dict[str, str]:
    """Return the environment of this process with these settings and no other; `.env` is not read."""
    return {**environment_without_settings(), **settings, COMPLETE_VARIABLE: "1", "VIEWER_HOME": str(home)}
