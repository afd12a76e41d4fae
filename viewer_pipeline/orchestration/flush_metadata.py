"""The metadata of a materialization of `view_counts`.

Dagster's UI shows a table in the order given here, and a plot of each number in the order of the names, so these begin
with what people look for first. What nobody needs as a plot is in `details`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import dagster as dg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.rejected_counts import RejectedCount, describe_rejected
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.history.view_totals import ViewTotals
from viewer_pipeline.orchestration.ui_metadata import round_percent, round_seconds, to_table_metadata
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.parked_views import ParkedViews
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import seconds_since

TOP_VODS = 10
TIMED_STEPS = ("drain", "aggregate", "upsert", "settle", "verify")


class StateAfterRun(NamedTuple):
    """What a run reports beside its own result, read at its end."""

    top: list[tuple[str, int, int]]  # VOD, views of this run, total
    parked: ParkedViews
    rejected: list[RejectedCount]  # since the previous run
    totals: ViewTotals
    previous: datetime | None  # when the counters of the flush before were read
    pending_vods: int

    @property
    def rejected_sentence(self) -> str:
        """What was rejected, for operators; empty if nothing was."""
        return f"rejected since the previous run: {describe_rejected(self.rejected)}" if self.rejected else ""


def metadata_of_run(
    report: RunReport, state: StateAfterRun, verify_seconds: float, settings: Settings
) -> dict[str, Any]:
    """Return the metadata of a run."""
    stats = run_stats(report, state, verify_seconds)
    sentences = [*report.notes.sentences(), *filter(None, [_held_sentence(report), state.rejected_sentence])]
    return {
        "added_views": report.views,
        **_views_per_minute(report, state.previous, settings.sensor_interval_seconds),
        "counters": report.counters,
        "lag_seconds": stats["oldest_pending_seconds"],
        "pending_vods": state.pending_vods,
        "total_views": state.totals.views,
        "total_vods": state.totals.vods,
        "notes": "; ".join(sentences) or "nothing out of the ordinary",
        "top_vods": to_table_metadata({"vod_id": "string", "views": "int", "total": "int"}, state.top),
        "rejected_by_reason": to_table_metadata(
            {"source": "string", "reason": "string", "inputs": "int"}, state.rejected
        ),
        "taken_at": dg.MetadataValue.timestamp(report.snapshot.taken_at),
        **{f"seconds_{step}": stats[f"{step}_seconds"] for step in TIMED_STEPS},
        "details": dg.MetadataValue.json(stats),
    }


def _held_sentence(report: RunReport) -> str:
    if not report.held_views:
        return ""
    command = command_to_type("held")
    return f"{pluralize(report.held_views, 'view')} may have been counted before, and are held; see `{command}`"


def run_stats(report: RunReport, state: StateAfterRun, verify_seconds: float) -> dict[str, Any]:
    """Return every number of a run, as `viewer-pipeline flush --json` prints them."""
    snapshot, notes = report.snapshot, report.notes
    return {
        "mode": snapshot.request.mode,
        "counters": report.counters,
        "views": report.views,
        "flushes": len(report.seqs),
        "batches": report.batches,
        "parked": state.parked.views,
        "held": report.held_views,
        "unparked": report.unparked.views,
        "rejected": sum(count.inputs for count in state.rejected),
        "drift": notes.drift,
        "remaining": report.remaining,
        **_scanned(report),
        "settled_before": notes.settled_before,
        "taken_at": snapshot.taken_at.timestamp(),
        "oldest_pending_seconds": round_seconds(seconds_since(snapshot.oldest) if snapshot.oldest else 0.0),
        "drain_seconds": round_seconds(snapshot.seconds),
        "aggregate_seconds": round_seconds(report.aggregate_seconds),
        "upsert_seconds": round_seconds(report.upsert_seconds),
        "settle_seconds": round_seconds(report.settle_seconds),
        "verify_seconds": round_seconds(verify_seconds),
        "last_flush": report.seqs[-1] if report.seqs else snapshot.base,
    }


def _views_per_minute(report: RunReport, previous: datetime | None, interval_seconds: float) -> dict[str, float]:
    """Return the rate since the flush before; nothing where that is unknown.

    A run of announced VODs may follow a pause in which nothing was pending. So it counts from when the oldest of them
    was announced, or one interval of the sensor if that is longer.
    """
    snapshot = report.snapshot
    times = [(snapshot.taken_at - previous).total_seconds()] if previous else []
    if snapshot.request.mode == "changed":
        waited = (snapshot.taken_at - snapshot.oldest).total_seconds() if snapshot.oldest else 0.0
        times.append(max(waited, interval_seconds))
    seconds = min(times, default=0.0)
    return {"added_views_per_minute": round(60 * report.views / seconds, 1)} if seconds > 0 else {}


def _scanned(report: RunReport) -> dict[str, float]:
    part = report.snapshot.progress.part
    if part is None:
        return {}
    begin = part.begin.share
    end = 1.0 if part.is_last else part.end.share
    scanned = begin if report.left_over else end
    return {"scanned_from_percent": round_percent(begin), "scanned_percent": round_percent(scanned)}
