"""Migration of both servers: the schema `viewer`, and what version 0.1.0 kept in Redis.

From version 0.1.0 it is a stopped upgrade: nothing of that version may run. The schema changes first; from then on
nothing of version 0.1.0 can commit, so what it left unsettled is moved as it is, and the next flush settles it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from viewer_pipeline.errors import OldVersionRuns, RedisUnavailable, SettingsError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.upgrade import require_upgradable, upgrade_redis
from viewer_pipeline.migrations.migrate import migrate_all, revision
from viewer_pipeline.monitoring.dagster_tables import read_heartbeats, read_running
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect

LAST_OF_0_1_0 = "0007"  # revision of the schema
SILENT_SECONDS = 45.0  # a daemon that lives gives a sign of life every 30 s
POLL_SECONDS = 0.5
FLUSH_SECONDS, OTHER_SECONDS = 300.0, 7200.0  # how long a run may take before Dagster ends it

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Migrated:
    """What was done: revision of the schema before and after, and whether the state of 0.1.0 was moved in Redis."""

    before: str | None
    after: str
    redis_moved: bool


def migrate_servers(settings: Settings, say: Progress, *, alone: bool = False) -> Migrated:
    """Bring both servers up to date. Safe to run twice, and at once.

    `alone`: nobody else can use this PostgreSQL, so neither daemon nor runs are looked for. Raises OldVersionRuns while
    something of version 0.1.0 runs, SettingsError where REDIS_URL is needed and not set.
    """
    before = revision(settings.require_database_url())
    if before is not None and before <= LAST_OF_0_1_0:
        if settings.redis_url is None:
            raise SettingsError("REDIS_URL is not set; the upgrade from version 0.1.0 needs the Redis that it used")
        if not alone:
            _require_no_old_run(settings)
            _require_no_old_daemon(settings, say)
        with connect(settings.redis_url) as client:
            require_upgradable(_stores(settings, client))
    before, after = migrate_all(settings)
    if settings.redis_url is None or before is None:
        return Migrated(before, after, redis_moved=False)
    with connect(settings.redis_url) as client:
        try:
            return Migrated(before, after, upgrade_redis(_stores(settings, client)))
        except RedisUnavailable as error:
            if before != after:
                raise
            # Worker and code server migrate before each start, and start without Redis. If 0.1.0 left anything there,
            # they are refused until this has run.
            say(f"not looked for what version 0.1.0 may have left in Redis: {error}")
            return Migrated(before, after, redis_moved=False)


def _stores(settings: Settings, client: redis.Redis) -> Stores:
    store = RedisStore(client, settings.require_redis_url(), settings.counter_prefix)
    return Stores(store, Ledger(settings.require_database_url()))


def _require_no_old_run(settings: Settings) -> None:
    now = time.time()
    for run in read_running(settings):
        ends = run.started + (FLUSH_SECONDS if run.job == "flush_views" else OTHER_SECONDS)
        if now < ends:
            raise OldVersionRuns(
                f"run {run.run_id} of {run.job} is recorded as running; let it end, or terminate it in Dagster's UI; if"
                f" its process is gone, migrate again in {ends - now:.0f} s"
            )


def _require_no_old_daemon(settings: Settings, say: Progress) -> None:
    """Wait until the last sign of life is so old that there must have been another one since.

    It is written by the daemon's clock: one that is ahead makes the wait no longer.
    """
    first = _last_heartbeat(settings)
    left = SILENT_SECONDS - max(0.0, time.time() - first)
    if left <= 0:
        return
    say(f"waiting {left:.0f} s to see whether a Dagster daemon of version 0.1.0 is alive")
    deadline = time.monotonic() + left
    while time.monotonic() < deadline:
        if _last_heartbeat(settings) > first:
            raise OldVersionRuns("a Dagster daemon gave a sign of life; stop it, code server and webserver, too")
        time.sleep(POLL_SECONDS)


def _last_heartbeat(settings: Settings) -> float:
    return max((beat.at for beat in read_heartbeats(settings).values()), default=0.0)
