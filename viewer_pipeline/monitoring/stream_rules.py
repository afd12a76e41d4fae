"""The rules of /health about streams: what the readings of all of them mean together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from viewer_pipeline.checks import STATUSES, CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.ledger_streams import OpenStreams
from viewer_pipeline.monitoring.health_rules import evaluate_marker_against_ledger, evaluate_unsettled
from viewer_pipeline.monitoring.stream_readings import StreamReading, are_several
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import round_age

APPLY = f"`{command_to_type('streams apply')}`"


def evaluate_markers(readings: Sequence[StreamReading]) -> CheckResult:
    """Return the result of the stream whose marker fits the ledger least, with its name where there are several."""
    results = [
        (evaluate_marker_against_ledger(each.marker and each.unsettled.marker, each.last, each.refusal), each)
        for each in readings
    ]
    worst, reading = max(results, key=lambda result: STATUSES.index(result[0].status))
    if not are_several(readings):
        return worst
    subject = "" if worst.passed else reading.stream.subject
    message = f"{subject}: {worst.message}" if subject else worst.message
    return replace(worst, message=message, details={**worst.details, "streams": [each.to_dict() for each in readings]})


def evaluate_unsettled_streams(readings: Sequence[StreamReading]) -> CheckResult:
    """Evaluate the unsettled flushes of all streams together; the message names the stream of the oldest."""
    behind = [each for each in readings if each.unsettled.age_seconds is not None]
    oldest = max(behind, key=lambda each: each.unsettled.age_seconds or 0.0, default=None)
    age = oldest.unsettled.age_seconds if oldest else None
    shards = [each.unsettled.shards for each in readings if each.unsettled.shards is not None]
    return evaluate_unsettled(
        sum(each.unsettled.flushes for each in readings),
        None if age is None else round_age(age),
        sum(shards) if shards else None,
        oldest.stream.subject if oldest else "",
    )


def evaluate_streams(streams: OpenStreams, flush_streams: int) -> CheckResult:
    """Whether runs find as many streams in the ledger as FLUSH_STREAMS says: else they are refused."""
    details = {"streams": len(streams.active), "flush_streams": flush_streams}
    if not streams.active:
        message = "a change of the streams is under way, or was interrupted: until it is complete, no run commits"
        return CheckResult("streams", "unhealthy", message, details, f"if it was interrupted, run {APPLY}")
    if len(streams.active) != flush_streams:
        has = pluralize(len(streams.active), "stream")
        message = f"FLUSH_STREAMS={flush_streams}, and the ledger has {has}: runs are refused"
        remedy = f"set FLUSH_STREAMS={len(streams.active)}, or run {APPLY} to change the ledger"
        return CheckResult("streams", "unhealthy", message, details, remedy)
    return CheckResult("streams", "healthy", f"FLUSH_STREAMS={flush_streams}, as in the ledger", details)
