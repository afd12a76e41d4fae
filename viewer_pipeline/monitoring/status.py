"""`viewer-pipeline status`: what is pending, persisted, parked and rejected, which checks fail, and why it stalls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from viewer_pipeline.checks import CheckResult, checks_to_dict, worst_status
from viewer_pipeline.flush.incidents import Incident, open_incidents
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import held_summary, recent_flushes, stored_views_summary
from viewer_pipeline.flush.ledger_row_types import HeldSummary, LastFlush, RecentFlush, StoredViewsSummary
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.rejected_counts import RejectedCount, read_rejected_summary
from viewer_pipeline.flush.sweep_position import SweepPosition
from viewer_pipeline.monitoring.bounded_probe import BoundedProbe, ProbeResult
from viewer_pipeline.monitoring.check_runner import CheckRunner
from viewer_pipeline.monitoring.pending_views import PendingViews, read_pending_views
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.monitoring.stall_reasons import stall_reasons
from viewer_pipeline.monitoring.startup import is_starting
from viewer_pipeline.monitoring.stream_readings import StreamReading, are_several
from viewer_pipeline.settings import Settings
from viewer_pipeline.streams import stream_of
from viewer_pipeline.time_formatting import format_timestamp

MAX_FLUSHES = 5
STATUS_SECONDS = 1.5  # time limit of each check, and of both readings where a server does not answer
REDIS_SECONDS = 1.3  # time limit of a Redis command; shorter, so that the check reports its error
MARKERS_SECONDS = 5.0  # what the check of all markers of a cluster may take in addition: 0.2 s of CPU, and each node
TOTALS_SECONDS = 30.0  # time limit of the reading that counts all VODs, of a PostgreSQL that answers
LIVE_TOTALS_SECONDS = 5.0  # the same, where it is read again and again


class RedisReading(NamedTuple):
    """What is in Redis. `sweep`: of the sweep that is under way between two runs, of the stream that is furthest back.

    `marker`: of the only stream; None where there are several.
    """

    pending: PendingViews
    sweep: SweepPosition | None
    marker: Marker | None


class LedgerReading(NamedTuple):
    """What is in PostgreSQL. `last_flush`: of all streams. `flushes`: newest first."""

    last_flush: LastFlush
    summary: StoredViewsSummary
    rejected: list[RejectedCount]
    held: HeldSummary
    incidents: list[Incident]
    flushes: list[RecentFlush]


@dataclass(frozen=True)
class PipelineStatus:
    """One reading. A server that cannot be read has an error instead of a value. `checks`: by name.

    `up_is_starting`: an `up` with this VIEWER_HOME has not started all its processes yet. `zone`: of times in text.
    `streams`: those of the ledger; empty where they could not be read.
    """

    redis: ProbeResult[RedisReading]
    ledger: ProbeResult[LedgerReading]
    checks: dict[str, CheckResult]
    stall_reasons: list[str]
    up_is_starting: bool
    zone: ZoneInfo
    streams: Sequence[StreamReading] = ()

    @property
    def failures(self) -> dict[str, ProbeResult[Any]]:
        """The servers that cannot be read, with error and remedy."""
        results: dict[str, ProbeResult[Any]] = {"redis": self.redis, "postgres": self.ledger}
        return {name: result for name, result in results.items() if result.value is None}

    @property
    def is_last_flush_settled(self) -> bool | None:
        """Whether the last flush is subtracted from Redis; None where servers or markers could not be read."""
        if self.redis.value is None or self.ledger.value is None or not self.streams:
            return None
        return all(stream.is_settled for stream in self.streams)

    @property
    def unsettled_shards(self) -> int | None:
        """How many shards of a cluster have flushes that are not settled, of those that were read; None without."""
        check = self.checks.get("unsettled")
        return check.details.get("unsettled_shards") if check else None

    def _cluster_to_dict(self) -> dict[str, Any]:
        """Return what stands for the one marker of a single Redis."""
        if self.unsettled_shards is None or len(self.streams) > 1:
            return {}
        furthest = self.checks["marker"].details.get("marker_seq")
        return {"marker": {"seq": furthest}, "unsettled_shards": self.unsettled_shards}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; what cannot be read is left out."""
        results = list(self.checks.values())
        return {
            "status": "unhealthy" if self.failures else worst_status(results),
            "timestamp": format_timestamp(),
            "up_is_starting": self.up_is_starting,
            "errors": {
                name: {"message": result.error, "remedy": result.remedy} for name, result in self.failures.items()
            },
            **(_redis_to_dict(self.redis.value) if self.redis.value else {}),
            **self._cluster_to_dict(),
            "settled": self.is_last_flush_settled,
            **({"streams": self._streams_to_list()} if len(self.streams) > 1 else {}),
            **(_ledger_to_dict(self.ledger.value) if self.ledger.value else {}),
            "stall_reasons": self.stall_reasons,
            "checks": checks_to_dict(results),
        }

    def _streams_to_list(self) -> list[dict[str, Any]]:
        pending = self.redis.value.pending.streams if self.redis.value else {}
        return [
            {**stream.to_dict(), "pending_vods": pending.get(stream.stream.name), "settled": stream.is_settled}
            for stream in self.streams
        ]


class StatusReader:
    """Reads both servers side by side, each within its time limit, over connections that it keeps."""

    def __init__(self, probes: HealthProbes, totals_seconds: float) -> None:
        self._probes, self._totals_seconds = probes, totals_seconds
        self._redis = BoundedProbe("status of redis", self._read_redis)
        self._ledger = BoundedProbe("status of postgres", self._read_ledger)
        self._checks = CheckRunner(probes.health_checks(STATUS_SECONDS, MARKERS_SECONDS), probes.relate)

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, totals_seconds: float = LIVE_TOTALS_SECONDS) -> Iterator[StatusReader]:
        """Open a reader. `totals_seconds`: time limit of the reading of a PostgreSQL that answers.

        Raises SettingsError.
        """
        with (
            Ledger.of(settings).keeping_connections() as ledger,
            closing(HealthProbes(settings, REDIS_SECONDS, ledger=ledger)) as probes,
        ):
            yield cls(probes, totals_seconds)

    def read(self) -> PipelineStatus:
        """Read both servers, and Dagster's tables as far as they can be read."""
        probes = self._probes
        self._redis.start_if_due()
        self._ledger.start_if_due()
        checks = {result.name: result for result in self._checks.run_in_parallel()}
        redis = self._redis.wait_for_result(STATUS_SECONDS).with_better_remedy(lambda: checks["redis"].remedy)
        is_postgres_reachable = "round_trip_ms" in checks["postgres"].details
        seconds = self._totals_seconds if is_postgres_reachable else STATUS_SECONDS
        ledger = self._ledger.wait_for_result(seconds).with_better_remedy(lambda: checks["postgres"].remedy)
        up_is_starting = is_starting(probes.settings.viewer_home, checks.values())
        reasons: list[str] = []
        if redis.value is not None and ledger.value is not None and not up_is_starting:
            reasons = stall_reasons(ledger.value.flushes, redis.value.pending.vods, checks, probes.settings)
        zone, streams = probes.settings.history_timezone, [*probes.streams]
        if redis.value is not None and are_several(streams):
            marker = streams[0].marker if len(streams) == 1 else None
            redis = replace(redis, value=redis.value._replace(marker=marker))
        return PipelineStatus(redis, ledger, checks, reasons, up_is_starting, zone, streams)

    def _read_redis(self) -> RedisReading:
        store = self._probes.store
        fields = store.subscriber_fields([part.layout.sweep_position_field for part in store.of_each_part()])
        sweeps = [sweep for field in fields if (sweep := SweepPosition.parse(field or b""))]
        sweep = min(sweeps, key=lambda position: position.share, default=None)
        return RedisReading(read_pending_views(store), sweep, store.marker())

    def _read_ledger(self) -> LedgerReading:
        ledger = self._probes.ledger
        with ledger.connect(any_server=True) as connection:
            flushes = recent_flushes(connection, MAX_FLUSHES)
            last = ledger.last_flush(connection)
            if flushes and stream_of(flushes[0].seq):
                last = LastFlush(flushes[0].seq, flushes[0].batches)
            return LedgerReading(
                last_flush=last,
                summary=stored_views_summary(connection),
                rejected=read_rejected_summary(connection).counts,
                held=held_summary(connection),
                incidents=open_incidents(connection),
                flushes=flushes,
            )


def read_status(settings: Settings) -> PipelineStatus:
    """Read the status once. Raises SettingsError."""
    with StatusReader.open(settings, TOTALS_SECONDS) as reader:
        return reader.read()


def _redis_to_dict(reading: RedisReading) -> dict[str, Any]:
    pending, sweep = reading.pending, reading.sweep
    return {
        "pending_views": pending.views,
        "pending_vods": pending.vods,
        "pending_vods_read": pending.read,
        "oldest_pending_seconds": round(pending.age, 1) if pending.vods else None,
        "sweep_position": {"began_at": format_timestamp(sweep.began), "percent": round(100 * sweep.share, 1)}
        if sweep
        else None,
        "marker": reading.marker._asdict() if reading.marker else None,
    }


def _ledger_to_dict(reading: LedgerReading) -> dict[str, Any]:
    return {
        "last_flush": reading.last_flush.seq,
        **reading.summary._asdict(),
        "rejected_by_reason": sum((Counter({count.reason: count.inputs}) for count in reading.rejected), Counter()),
        "held_vods": reading.held.vods,
        "held_views": reading.held.views,
        "incidents": [_incident_to_dict(incident) for incident in reading.incidents],
        "flushes": [_flush_to_dict(flush) for flush in reading.flushes],
    }


def _incident_to_dict(incident: Incident) -> dict[str, Any]:
    fields = incident._asdict()
    first_seen, last_seen = fields.pop("first_seen"), fields.pop("last_seen")
    seen = {"first_seen_at": format_timestamp(first_seen), "last_seen_at": format_timestamp(last_seen)}
    return {**fields, **seen}


def _flush_to_dict(flush: RecentFlush) -> dict[str, Any]:
    times = {"taken_at": format_timestamp(flush.taken_at), "committed_at": format_timestamp(flush.committed_at)}
    return flush._asdict() | times | {"views": int(flush.views)}
