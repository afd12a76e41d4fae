"""The reports of several streams as one: what a run has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from viewer_pipeline.checks import CheckResult, worst_status
from viewer_pipeline.flush.run_notes import RunNotes
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.target.parked_views import ParkedViews


def combine_reports(reports: Sequence[RunReport]) -> RunReport:
    """Return the reports of the streams of a run as one.

    Counts are added. Streams work side by side, so of durations the longest counts. The snapshot is the first one, with
    the earliest times of all.
    """
    if len(reports) == 1:
        return reports[0]
    snapshots = [report.snapshot for report in reports]
    oldest = [snapshot.oldest for snapshot in snapshots if snapshot.oldest is not None]
    snapshot = replace(
        snapshots[0],
        taken_at=min(snapshot.taken_at for snapshot in snapshots),
        oldest=min(oldest, default=None),
        seconds=max(snapshot.seconds for snapshot in snapshots),
    )
    return RunReport(
        snapshot,
        [committed for report in reports for committed in report.committed],
        [row for report in reports for row in report.recovered],
        [reject for report in reports for reject in report.rejects],
        sum((report.notes for report in reports), RunNotes()),
        left_over=any(report.left_over for report in reports),
        remaining=sum(report.remaining for report in reports),
        aggregate_seconds=max(report.aggregate_seconds for report in reports),
        upsert_seconds=max(report.upsert_seconds for report in reports),
        settle_seconds=max(report.settle_seconds for report in reports),
        upsert_and_settle_seconds=max(report.upsert_and_settle_seconds for report in reports),
        unparked=ParkedViews(
            sum(report.unparked.vods for report in reports), sum(report.unparked.views for report in reports)
        ),
    )


def combine_checks(of_streams: Sequence[tuple[str, Sequence[CheckResult]]]) -> list[CheckResult]:
    """Return one result for each check: the worst of the streams, with the message of each under its name."""
    if len(of_streams) == 1:
        return list(of_streams[0][1])
    combined = []
    for results in zip(*(results for _, results in of_streams), strict=True):
        rows = [row for result in results for row in result.failing_rows]
        message = "; ".join(f"{name}: {result.message}" for (name, _), result in zip(of_streams, results, strict=True))
        details = {"failing_rows": rows} if rows else {}
        combined.append(CheckResult(results[0].name, worst_status(results), message, details))
    return combined
