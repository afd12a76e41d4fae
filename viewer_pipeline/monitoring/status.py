"""`viewer-pipeline status`: what is pending, persisted, parked and rejected, which checks fail, and why it stalls."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from viewer_pipeline.checks import CheckResult, checks_to_dict, worst_status
from viewer_pipeline.flush.incidents import Incident, open_incidents
from viewer_pipeline.flush.ledger_reads import last_flush, recent_flushes, stored_views_summary
from viewer_pipeline.flush.ledger_row_types import LastFlush, RecentFlush, StoredViewsSummary
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.rejected_counts import RejectedCount, read_rejected_summary
from viewer_pipeline.flush.sweep_position import SweepPosition
from viewer_pipeline.monitoring.check_runner import CheckRunner
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.monitoring.stall_reasons import stall_reasons
from viewer_pipeline.settings import Settings
from viewer_pipeline.time_formatting import format_timestamp, seconds_since

MAX_FLUSHES = 5
STATUS_SECONDS = 5.0  # time limit of each check


@dataclass(frozen=True)
class PipelineStatus:
    """One reading of both servers. `checks`: by name."""

    pending_vods: int
    oldest_pending_seconds: float | None
    sweep: SweepPosition | None  # of the sweep that is under way between two runs
    marker: Marker | None
    last_flush: LastFlush
    summary: StoredViewsSummary
    rejected: list[RejectedCount]
    incidents: list[Incident]
    flushes: list[RecentFlush]
    checks: dict[str, CheckResult]
    stall_reasons: list[str]

    @property
    def is_last_flush_settled(self) -> bool:
        """Whether the last flush is subtracted from Redis."""
        marker, last = self.marker, self.last_flush
        return not last.seq or (marker is not None and (marker.seq, marker.batch) >= (last.seq, last.batches))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        results = list(self.checks.values())
        return {
            "status": worst_status(results),
            "timestamp": format_timestamp(),
            "pending_vods": self.pending_vods,
            "oldest_pending_seconds": self.oldest_pending_seconds,
            "sweep_position": _position_to_dict(self.sweep) if self.sweep else None,
            "marker": self.marker._asdict() if self.marker else None,
            "last_flush": self.last_flush.seq,
            "settled": self.is_last_flush_settled,
            **self.summary._asdict(),
            "rejected_by_reason": sum((Counter({count.reason: count.inputs}) for count in self.rejected), Counter()),
            "incidents": [_incident_to_dict(incident) for incident in self.incidents],
            "flushes": [_flush_to_dict(flush) for flush in self.flushes],
            "stall_reasons": self.stall_reasons,
            "checks": checks_to_dict(results),
        }


def read_status(settings: Settings) -> PipelineStatus:
    """Read both servers, and Dagster's tables as far as they can be read.

    Raises RedisUnavailable, PostgresUnavailable, SchemaMissing.
    """
    with closing(HealthProbes(settings, STATUS_SECONDS)) as probes:
        pending, oldest = probes.store.changed_set_size_and_oldest()
        sweep, marker = SweepPosition.parse(probes.store.sweep_position()), probes.store.marker()
        with probes.ledger.connect(any_server=True) as connection:
            rejected = read_rejected_summary(connection).counts
            last, summary = last_flush(connection), stored_views_summary(connection)
            incidents, flushes = open_incidents(connection), recent_flushes(connection, MAX_FLUSHES)
        checks = {result.name: result for result in CheckRunner(probes.health_checks(STATUS_SECONDS)).run_in_parallel()}
    return PipelineStatus(
        pending_vods=pending,
        oldest_pending_seconds=round(seconds_since(oldest), 1) if oldest else None,
        sweep=sweep,
        marker=marker,
        last_flush=last,
        summary=summary,
        rejected=rejected,
        incidents=incidents,
        flushes=flushes,
        checks=checks,
        stall_reasons=stall_reasons(flushes, pending, checks, settings),
    )


def _position_to_dict(position: SweepPosition) -> dict[str, Any]:
    return {"began_at": format_timestamp(position.began), "percent": round(100 * position.share, 1)}


def _incident_to_dict(incident: Incident) -> dict[str, Any]:
    fields = incident._asdict()
    first_seen, last_seen = fields.pop("first_seen"), fields.pop("last_seen")
    seen = {"first_seen_at": format_timestamp(first_seen), "last_seen_at": format_timestamp(last_seen)}
    return {**fields, **seen}


def _flush_to_dict(flush: RecentFlush) -> dict[str, Any]:
    times = {"taken_at": format_timestamp(flush.taken_at), "committed_at": format_timestamp(flush.committed_at)}
    return flush._asdict() | times | {"views": int(flush.views)}
