"""Migration of both servers: the schema `viewer`, and the state that version 0.1.0 kept in Redis.

From version 0.1.0 it is a stopped upgrade: no process of that version may run. The schema changes first; after that
version 0.1.0 cannot commit. So its unsettled flushes are moved as they are, and the next flush settles them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from viewer_pipeline.errors import OldVersionRuns, RedisUnavailable, SettingsError
from viewer_pipeline.flush.redis_upgrade import require_upgradable, upgrade_redis
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.stream_change import change_streams_of_new_ledger
from viewer_pipeline.migrations.migrate import current_revision, migrate_all
from viewer_pipeline.monitoring.dagster_tables import read_heartbeats, read_running_runs
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import require_reply

LAST_OF_0_1_0 = "0007"  # revision of the schema
SILENT_SECONDS = 45.0  # a running daemon records a heartbeat every 30 s
POLL_SECONDS = 0.5
FLUSH_SECONDS, OTHER_SECONDS = 300.0, 7200.0  # maximum runtimes, after which Dagster terminates a run

Progress = Callable[[str], None]


@dataclass(frozen=True)
class MigrationResult:
    """The revision of the schema before and after, and whether the state of 0.1.0 in Redis was moved."""

    before: str | None
    after: str
    redis_moved: bool


def migrate_postgres_and_redis(
    settings: Settings, on_progress: Progress, *, exclusive: bool = False
) -> MigrationResult:
    """Upgrade both servers. Safe to repeat and to run concurrently.

    `exclusive`: no other process can use this PostgreSQL, so daemon and runs are not checked. Raises OldVersionRuns
    while a process of version 0.1.0 runs, SettingsError if REDIS_URL is needed and not set.
    """
    before = current_revision(settings.require_database_url())
    if before is not None and before <= LAST_OF_0_1_0:
        if settings.redis_url is None:
            raise SettingsError("REDIS_URL is not set; the upgrade from version 0.1.0 needs the Redis that it used")
        require_reply(settings.redis_url)
        if not exclusive:
            _require_no_run_of_old_version(settings)
            _wait_until_daemon_is_silent(settings, on_progress)
        with Stores.open(settings) as stores:
            require_upgradable(stores)
    before, after = migrate_all(settings)
    if settings.redis_url is None or (before is None and settings.flush_streams == 1):
        return MigrationResult(before, after, redis_moved=False)
    with Stores.open(settings) as stores:
        try:
            require_reply(settings.redis_url)
            redis_moved = upgrade_redis(stores)
            change_streams_of_new_ledger(stores)
            return MigrationResult(before, after, redis_moved)
        except RedisUnavailable as error:
            if before != after:
                raise
            # Worker and code server migrate before each start, and start without Redis. If 0.1.0 left state in Redis,
            # they are refused until this migration has run.
            on_progress(f"did not check Redis for state of version 0.1.0: {error}")
            return MigrationResult(before, after, redis_moved=False)


def _require_no_run_of_old_version(settings: Settings) -> None:
    now = time.time()
    for run in read_running_runs(settings):
        ends = run.started + (FLUSH_SECONDS if run.job == "flush_views" else OTHER_SECONDS)
        if now < ends:
            raise OldVersionRuns(
                f"run {run.run_id} of {run.job} is recorded as running; let it end, or terminate it in Dagster's UI; if"
                f" its process is gone, migrate again in {ends - now:.0f} s"
            )


def _wait_until_daemon_is_silent(settings: Settings, on_progress: Progress) -> None:
    """Wait until the last heartbeat is so old that a running daemon would have recorded another one.

    The daemon's clock writes it; if that clock is ahead, the wait is not longer.
    """
    first = _read_last_heartbeat_time(settings)
    left = SILENT_SECONDS - max(0.0, time.time() - first)
    if left <= 0:
        return
    on_progress(f"waiting {left:.0f} s to detect a running Dagster daemon of version 0.1.0")
    deadline = time.monotonic() + left
    while time.monotonic() < deadline:
        if _read_last_heartbeat_time(settings) > first:
            raise OldVersionRuns(
                "a Dagster daemon has recorded a heartbeat; stop it, the code server and the webserver"
            )
        time.sleep(POLL_SECONDS)


def _read_last_heartbeat_time(settings: Settings) -> float:
    return max((beat.at for beat in read_heartbeats(settings).values()), default=0.0)
