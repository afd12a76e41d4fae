"""Reads the servers for the checks that /health, status and the doctor share. Each probe opens its own connections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.errors import SessionUnusable, ViewerPipelineError
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import held_summary
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.recorded_settings import read_recorded_settings
from viewer_pipeline.flush.rejected_counts import read_rejected_summary
from viewer_pipeline.history.ledger_days import read_ledger_days
from viewer_pipeline.history.timezone_change import find_timezone_change
from viewer_pipeline.home_lock_and_server_urls import remedy_of_embedded_server
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.celery_rules import evaluate_celery
from viewer_pipeline.monitoring.channel_subscribers import check_subscribers
from viewer_pipeline.monitoring.check_runner import HEALTH_SECONDS, ProbedChecks
from viewer_pipeline.monitoring.daemon_ids import DaemonIds
from viewer_pipeline.monitoring.dagster_rules import (
    DAGSTER_CHECKS,
    START,
    DagsterDeadlines,
    drop_outdated_skip_reasons,
    evaluate_dagster,
    relate_last_flush_to_dagster,
)
from viewer_pipeline.monitoring.dagster_tables import read_dagster
from viewer_pipeline.monitoring.health_rules import (
    REJECTED_SECONDS,
    WriteRefusal,
    degrade_if_restarted,
    evaluate_freshness,
    evaluate_held,
    evaluate_history_timezone,
    evaluate_incidents,
    evaluate_last_flush,
    evaluate_lost_settings,
    evaluate_postgres,
    evaluate_redis,
    evaluate_redis_memory,
    evaluate_rejected,
    evaluate_slots,
    evaluate_subscriber,
    evaluate_unreachable_node,
)
from viewer_pipeline.monitoring.nodes import worst_of_nodes
from viewer_pipeline.monitoring.stream_readings import StreamReading, StreamsReader
from viewer_pipeline.monitoring.stream_rules import evaluate_markers, evaluate_streams, evaluate_unsettled_streams
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.celery_broker import read_broker
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import read_only_reason
from viewer_pipeline.stores.redis import as_ours, connect, redis_errors
from viewer_pipeline.streams import WHOLE
from viewer_pipeline.time_formatting import round_age, seconds_since

SQL = named_queries(__name__)

PROBE_SECONDS = 0.7  # time limit of a Redis command; shorter than that of a check, so that the check reports the error
REACHABLE = "check that the server runs, and that host, port, network and login of its URL are right"

RESET_ROLE = "let a superuser reset session_replication_role for this role, this database or the server"


class HealthProbes:
    """The probes of one process, and the client and stores that they use."""

    def __init__(
        self,
        settings: Settings,
        seconds: float = PROBE_SECONDS,
        stats: SubscriberStats | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`seconds`: time limit of one Redis command; it is sent once. `stats`: of this worker; None in a command.

        `ledger`: one that keeps its connections.
        """
        self.settings, self._stats, self._seconds = settings, stats, seconds
        self.ledger = ledger or Ledger.of(settings)
        self.redis_url = settings.require_redis_url()
        self.client = connect(self.redis_url, seconds=seconds, retries=0)
        self.store = open_store(self.client, settings)
        self._daemon_ids, self._streams = DaemonIds(), StreamsReader(self.store, self.ledger)
        self.streams: list[StreamReading] = []  # as the check of settling has read them; empty while it has not
        self._started = time.monotonic()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def health_checks(
        self, seconds: float = HEALTH_SECONDS, extra_seconds_of_cluster: float = 0.0
    ) -> list[ProbedChecks]:
        """Return the checks of /health, each with this time limit; in a command, with all subscribers of this Redis.

        `extra_seconds_of_cluster`: how much longer the one that reads all markers of a cluster may take.
        """
        seconds_of_markers = seconds + (extra_seconds_of_cluster if self.store.layout.cluster else 0.0)
        both = ("postgres", "redis")
        dagster_needs = ("postgres",) if self.settings.dagster_database_url is None else ()
        return [
            ProbedChecks(
                ("redis", "redis_memory"), self.check_redis, seconds, (), REACHABLE, self.remedy_of_embedded_redis
            ),
            ProbedChecks(("postgres",), self.check_postgres, seconds, (), REACHABLE, self.remedy_of_embedded_postgres),
            ProbedChecks(("lost_settings",), self.check_lost_settings, seconds, ("redis",)),
            ProbedChecks(("freshness",), self.check_freshness, seconds, ("redis",)),
            ProbedChecks(
                ("marker", "unsettled", "last_flush", "incidents", "rejected", "held", "streams"),
                self.check_settling,
                seconds_of_markers,
                both,
            ),
            ProbedChecks(("history_timezone",), self.check_history_timezone, seconds, ("postgres",)),
            ProbedChecks(DAGSTER_CHECKS, self.check_dagster, seconds, dagster_needs, START),
            *self._celery_check(seconds),
            self._subscriber_check(self._stats, seconds),
        ]

    def remedy_of_embedded_redis(self) -> str:
        """Return what to do if Redis does not answer; empty where it is not one of `up`."""
        return remedy_of_embedded_server(self.settings.viewer_home, "redis_url", self.redis_url)

    def remedy_of_embedded_postgres(self) -> str:
        """Return what to do if PostgreSQL does not answer; empty where it is not one of `up`."""
        return remedy_of_embedded_server(self.settings.viewer_home, "database_url", self.settings.database_url)

    def relate(self, results: Sequence[CheckResult]) -> list[CheckResult]:
        """Return the results of all checks; some depend on those of several probes."""
        related = relate_last_flush_to_dagster(results, self.settings.freshness_limit_seconds)
        return drop_outdated_skip_reasons(related)

    def check_redis(self) -> list[CheckResult]:
        """Measure a round trip, test a write, and read role and memory."""
        with redis_errors(self.redis_url):
            started = time.perf_counter()
            self.client.ping()
            round_trip_ms = _milliseconds_since(started)
        infos, results = self._read_info_of_nodes()
        refusal = None if results else self._find_write_refusal()
        for node, info in infos.items():
            result = evaluate_redis(info, round_trip_ms, refusal)
            results[node] = degrade_if_restarted(result, info.get("uptime_in_seconds"), self._process_uptime_seconds())
        result = evaluate_slots(worst_of_nodes(results), self.store.unserved_slots())
        if result.status == "unhealthy":  # the address may lead to another server by now, also from a replica
            self.store.leave_server()
        return [result, worst_of_nodes({node: evaluate_redis_memory(info) for node, info in infos.items()})]

    def _read_info_of_nodes(self) -> tuple[dict[str, dict[str, Any]], dict[str, CheckResult]]:
        """Return what INFO reports, by node; and the results of nodes that do not answer, unless none does."""
        infos, unreachable = dict[str, dict[str, Any]](), dict[str, CheckResult]()
        with self.store.node_clients() as clients:
            for node, client in clients.items():
                try:
                    infos[node] = read_redis_info(client)
                except redis.RedisError as error:
                    if len(unreachable) + 1 == len(clients):
                        raise as_ours(error, self.redis_url) from error
                    unreachable[node] = evaluate_unreachable_node(str(error))
        return infos, unreachable

    def check_postgres(self) -> list[CheckResult]:
        """Measure a round trip, and read whether a flush could commit."""
        try:
            return [self._evaluate_postgres()]
        except SessionUnusable as error:
            return [CheckResult("postgres", "unhealthy", str(error), remedy=RESET_ROLE)]

    def _evaluate_postgres(self) -> CheckResult:
        with self.ledger.connect(any_server=True) as connection:
            started = time.perf_counter()
            migrated, up_seconds = fetch_one(connection, SQL["server_state"])
            round_trip_ms = _milliseconds_since(started)
            refusal = read_only_reason(connection)
            row = connection.execute(SQL["schema_revision"]).fetchone() if migrated else None
        revision = row[0] if row else ""
        result = evaluate_postgres(refusal, revision, round_trip_ms)
        return degrade_if_restarted(result, up_seconds, self._process_uptime_seconds())

    def check_freshness(self) -> list[CheckResult]:
        """Read how long views have been pending."""
        parts = [(part.layout.stream, *part.changed_set_size_and_oldest()) for part in self.store.of_each_part()]
        oldest = min(((at, stream) for stream, _, at in parts if at), default=None)
        age, stream = (round(seconds_since(oldest[0]), 1), oldest[1]) if oldest else (None, WHOLE)
        pending, limit = sum(vods for _, vods, _ in parts), self.settings.freshness_limit_seconds
        return [evaluate_freshness(pending, age, limit, stream.subject)]

    def check_lost_settings(self) -> list[CheckResult]:
        """Compare the settings of this program with those that workers and runs have recorded."""
        return [evaluate_lost_settings(read_recorded_settings(self.store), self.settings)]

    def check_settling(self) -> list[CheckResult]:
        """Compare the marker of each stream with the ledger."""
        self.streams = []
        with self.ledger.connect() as connection:  # the primary: a standby's ledger may lag behind the marker
            of_ledger, self.streams = self._streams.read(connection)
            last, last_age = fetch_one(connection, SQL["last_flush_of_all"])
            incidents, rejected = open_incidents(connection), read_rejected_summary(connection, REJECTED_SECONDS)
            held = held_summary(connection)
        return [
            evaluate_markers(self.streams),
            evaluate_unsettled_streams(self.streams),
            evaluate_last_flush(last or 0, None if last_age is None else round_age(last_age)),
            evaluate_incidents(incidents),
            evaluate_rejected(rejected),
            evaluate_held(held, any(stream.holds for stream in self.streams)),
            evaluate_streams(of_ledger, self.settings.flush_streams),
        ]

    def check_history_timezone(self) -> list[CheckResult]:
        """Compare the bounds of the days that are rolled up with those of HISTORY_TIMEZONE."""
        zone = self.settings.history_timezone
        with self.ledger.connect() as connection:
            change = find_timezone_change(connection, read_ledger_days(connection, zone))
        return [evaluate_history_timezone(change, zone.key)]

    def check_dagster(self) -> list[CheckResult]:
        """Read Dagster's tables. A Dagster that has run before is not just starting when a command runs."""
        reading = read_dagster(self.settings)
        now = time.time()
        started = 0.0 if self._stats is None and reading else now - self._process_uptime_seconds()
        concurrent_ids = self._daemon_ids.concurrent(reading.heartbeats if reading else {}, now)
        return evaluate_dagster(reading, DagsterDeadlines.of(self.settings, now, started), concurrent_ids)

    def _celery_check(self, seconds: float) -> list[ProbedChecks]:
        if (url := self.settings.celery_broker_url) is None:
            return []
        return [ProbedChecks(("celery",), lambda: [evaluate_celery(read_broker(url, self._seconds))], seconds)]

    def _subscriber_check(self, stats: SubscriberStats | None, seconds: float) -> ProbedChecks:
        if stats is not None:
            return ProbedChecks(("subscriber",), lambda: [evaluate_subscriber(stats)])
        names = ("subscriber", "shared_channel")
        return ProbedChecks(names, lambda: check_subscribers(self.store, self.settings), seconds, ("redis",))

    def _process_uptime_seconds(self) -> float:
        return time.monotonic() - self._started

    def _find_write_refusal(self) -> WriteRefusal | None:
        """Return the error of a write that changes nothing, e.g. OOM, MISCONF, READONLY."""
        try:
            self.store.require_writes()
        except ViewerPipelineError as error:
            return WriteRefusal(str(error), error.remedy)
        return None


def read_redis_info(client: redis.Redis) -> dict[str, Any]:
    """Return what INFO reports; nothing where the user may not run it."""
    try:
        info: Any = client.info()
    except redis.ResponseError:
        return {}
    return dict(info)


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)
