"""The status page: reads the servers and renders, only when somebody looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.home_lock_and_server_urls import remedy_of_embedded_server
from viewer_pipeline.monitoring.bounded_probe import BoundedProbe, ProbeResult
from viewer_pipeline.monitoring.check_runner import HEALTH_SECONDS
from viewer_pipeline.monitoring.health_change_log import WATCH_SECONDS
from viewer_pipeline.monitoring.pending_views import PendingViews, read_pending_views
from viewer_pipeline.monitoring.startup import is_starting, status_of_whole
from viewer_pipeline.monitoring.status_page.oldest_pending import OldestPendingHistory
from viewer_pipeline.monitoring.status_page.postgres_reading import PostgresReader, PostgresReading
from viewer_pipeline.settings import Settings

SERVER_NAMES = {"redis": "Redis", "postgres": "PostgreSQL"}  # by the check of each
CACHE_SECONDS = 2.0  # any number of viewers costs the servers one reading in this time


@dataclass(frozen=True)
class StatusReading:
    """Everything on the page. A server that cannot be read has an error instead of a value.

    `up_is_starting`: an `up` with this VIEWER_HOME has not started all its processes yet.
    """

    checks: list[CheckResult]
    redis: ProbeResult[PendingViews]
    postgres: ProbeResult[PostgresReading]
    oldest_pending_by_bucket: dict[int, float]
    up_is_starting: bool = False

    @property
    def failures(self) -> dict[str, ProbeResult[Any]]:
        """The servers that cannot be read, by name, with error and remedy."""
        results: dict[str, ProbeResult[Any]] = {"Redis": self.redis, "PostgreSQL": self.postgres}
        return {name: result for name, result in results.items() if result.error}

    @property
    def checks_of_failures(self) -> dict[str, CheckResult]:
        """The unhealthy checks of the servers that cannot be read, by server: they know more of the cause."""
        checks = {SERVER_NAMES[check.name]: check for check in self.checks if check.name in SERVER_NAMES}
        return {name: checks[name] for name in self.failures if name in checks and checks[name].status == "unhealthy"}

    @property
    def status(self) -> Status | Literal["starting"]:
        """That of the worst check; unhealthy where a server cannot be read."""
        return "unhealthy" if self.failures else status_of_whole(self.checks, up_is_starting=self.up_is_starting)


class StatusPage:
    """The page, rendered at most once in CACHE_SECONDS. For one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        store: RedisStore,
        run_checks: Callable[[float], list[CheckResult]],
        oldest_pending: OldestPendingHistory,
    ) -> None:
        """`run_checks`: runs those whose last result is older than so many seconds."""
        self._settings, self._run_checks, self._oldest_pending = settings, run_checks, oldest_pending
        self._redis = BoundedProbe("page of redis", lambda: read_pending_views(store))
        self._reader = PostgresReader(Ledger.of(settings), settings.history_timezone)
        self._postgres = BoundedProbe("page of postgres", self._reader.read)
        self._html, self._rendered_at, self._checks_are_behind = "", float("-inf"), True

    def close(self) -> None:
        """Close its connection to PostgreSQL."""
        self._reader.close()

    def html(self) -> str:
        """Return the page within a second; it is at most CACHE_SECONDS old."""
        if time.monotonic() - self._rendered_at > CACHE_SECONDS:
            from viewer_pipeline.monitoring.status_page.rendering import render_page  # noqa: PLC0415 - imports Jinja

            reading = self._read()
            self._html, self._rendered_at = render_page(reading, self._settings), time.monotonic()
            self._checks_are_behind = reading.failures.keys() != reading.checks_of_failures.keys()
        return self._html

    def _read(self) -> StatusReading:
        """Read both servers. Unless unhealthy, checks are those of the health watch: most of them cost a connection.

        All run again where the last page could not read a server whose check was healthy: it was older.
        """
        self._redis.start_if_due()
        self._postgres.start_if_due()
        checks = self._run_checks(0.0 if self._checks_are_behind else WATCH_SECONDS + 1)
        redis = self._redis.wait_for_result(HEALTH_SECONDS).with_better_remedy(partial(self._find_remedy, "redis_url"))
        postgres = self._postgres.wait_for_result(HEALTH_SECONDS)
        postgres = postgres.with_better_remedy(partial(self._find_remedy, "database_url"))
        up_is_starting = is_starting(self._settings.viewer_home, checks)
        return StatusReading(checks, redis, postgres, self._oldest_pending.seconds_by_bucket, up_is_starting)

    def _find_remedy(self, setting: str) -> str:
        return remedy_of_embedded_server(self._settings.viewer_home, setting, getattr(self._settings, setting))
