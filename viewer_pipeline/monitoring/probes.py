"""What `/health` reads from the servers: each probe reads once, with connections of its own that heal by themselves."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_queries import last_flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.ownership import find_refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.stats import SubscriberStats
from viewer_pipeline.monitoring.checks import Check, Checks, Result, Results
from viewer_pipeline.monitoring.dagster_rules import NAMES, Clock, judge_dagster
from viewer_pipeline.monitoring.dagster_tables import read_dagster
from viewer_pipeline.monitoring.rules import (
    judge_freshness,
    judge_incidents,
    judge_marker,
    judge_memory,
    judge_postgres,
    judge_replication,
    judge_restart,
    judge_subscriber,
    judge_unsettled,
)
from viewer_pipeline.redaction import without_password
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect, redis_errors

REDIS_SECONDS = 0.7  # less than a check may take, so that its answer names the server's silence

CAN_COMMIT = """
    SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
        to_regclass('viewer.alembic_version') IS NOT NULL,
        extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8
"""
REVISION = "SELECT version_num FROM viewer.alembic_version"
UNSETTLED = """
    SELECT count(*), extract(epoch FROM clock_timestamp() - min(committed_at))::float8 FROM viewer.flush
    WHERE seq > %(seq)s OR (seq = %(seq)s AND batches > %(batch)s)
"""


def impatient(url: str) -> redis.Redis:
    """Return a client that waits REDIS_SECONDS for an answer and tries once. Raises SettingsError."""
    return connect(url, seconds=REDIS_SECONDS, retries=0)


class Probes:
    """The probes of one worker."""

    def __init__(self, settings: Settings, figures: SubscriberStats) -> None:
        self._settings, self._figures = settings, figures
        self._redis_url = settings.require_redis_url()
        self.client = impatient(self._redis_url)
        self._store = RedisStore(self.client, self._redis_url, settings.counter_prefix)
        self._ledger = Ledger(settings.require_database_url())
        self._born = time.time()

    def checks(self) -> Checks:
        """Return all checks, not started yet. Those that share a name's prefix share a reading."""
        return Checks(
            [
                Check(("redis", "redis_memory"), self.redis),
                Check(("postgres",), self.postgres),
                Check(("subscriber",), self.subscriber),
                Check(("freshness",), self.freshness),
                Check(("marker", "unsettled", "incidents"), self.settling),
                Check(NAMES, self.dagster),
            ]
        )

    def close(self) -> None:
        """Give the connections back."""
        self.client.close()

    def redis(self) -> Results:
        """Ask for a sign of life, its role and memory, and whether it takes writes."""
        with redis_errors(self._redis_url):
            started = time.perf_counter()
            self.client.ping()
            took = _milliseconds(started)
            replication, memory = self._info("replication"), self._info("memory")
        result = self._write() or judge_replication(replication, took)
        if result.state == "healthy":
            result = judge_restart(result, self._info("server").get("uptime_in_seconds"), self._age())
        else:  # the address may lead to another server by now, also from a replica that takes writes
            self.client.connection_pool.disconnect(inuse_connections=False)
        return {"redis": result, "redis_memory": judge_memory(memory)}

    def postgres(self) -> Results:
        """Ask for a sign of life, and whether a flush could be committed."""
        with self._ledger.connect(any_server=True) as connection:
            started = time.perf_counter()
            row = connection.execute(CAN_COMMIT).fetchone()
            took = _milliseconds(started)
            assert row is not None, "a SELECT without FROM returns one row"
            standby, read_only, migrated, up_seconds = row
            found = connection.execute(REVISION).fetchone() if migrated else None
        revision = found[0] if found else ""
        result = judge_postgres(standby=standby, read_only=read_only, revision=revision, round_trip_ms=took)
        return {"postgres": judge_restart(result, up_seconds, self._age())}

    def subscriber(self) -> Results:
        """Look at the subscriber of this process."""
        return {"subscriber": judge_subscriber(self._figures)}

    def freshness(self) -> Results:
        """Ask how long views have been waiting."""
        pending, oldest = self._store.pending()
        age = round(max(0.0, (datetime.now(UTC) - oldest).total_seconds()), 1) if oldest else None
        return {"freshness": judge_freshness(pending, age, self._settings.freshness_limit_seconds)}

    def settling(self) -> Results:
        """Hold the marker, read first, against the ledger."""
        marker = self._store.marker()
        with self._ledger.connect() as connection:
            last = last_flush(connection)
            refused = find_refusal(self._store, self._ledger, connection)
            at = marker or Marker(last.seq, last.batches, last.batches)
            row = connection.execute(UNSETTLED, {"seq": at.seq, "batch": at.batch}).fetchone()
            incidents = open_incidents(connection)
        flushes, age = row or (0, None)
        return {
            "incidents": judge_incidents(incidents),
            "marker": judge_marker(marker, last, str(refused or "")),
            "unsettled": judge_unsettled(flushes, None if age is None else round(max(0.0, age), 1)),
        }

    def dagster(self) -> Results:
        """Read Dagster's tables."""
        reading = read_dagster(self._settings)
        return judge_dagster(reading, Clock.of(self._settings, time.time(), self._born))

    def _age(self) -> float:
        return time.time() - self._born

    def _write(self) -> Result | None:
        """Write something harmless; a result where Redis refuses that, with its reason: OOM, MISCONF, READONLY."""
        try:
            self._store.require_writes()
        except ViewerPipelineError as error:
            return Result("unhealthy", without_password(str(error)))
        return None

    def _info(self, section: str) -> dict[str, Any]:
        try:
            found: Any = self.client.info(section)
        except NoPermissionError:  # an ACL may keep it from us; then it is not judged
            return {}
        return dict(found)


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
