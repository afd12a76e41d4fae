"""Reconcile: compare, and repair on request. Each comparison reads one moment; flushes may run meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from viewer_pipeline.checks import CheckResult, checks_to_dict, worst_status
from viewer_pipeline.flush.ledger_reads import stored_views_summary
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.compare_target import compare_parked, compare_target
from viewer_pipeline.reconcile.compare_totals_with_history import compare_totals
from viewer_pipeline.reconcile.difference_csv import (
    KINDS,
    Difference,
    DifferenceReport,
    Kind,
    prune_reports,
    report_path,
)
from viewer_pipeline.reconcile.marker_and_invalid_counters import compare_marker, report_invalid_counters
from viewer_pipeline.reconcile.repair import repair_parked, repair_target, repair_totals
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import format_timestamp

CHECKS: dict[str, tuple[Kind, ...]] = {
    "totals_equal_history": ("total", "pruned"),
    "held_views_are_accounted_for": ("held",),
    "target_equals_totals": ("target",),
    "marker_follows_ledger": ("marker",),
    "counters_are_counts": ("counter",),
    "nothing_waits_for_its_row": ("parked",),
}
STEPS = ("totals", "target", "parked", "marker", "counters")

Progress = Callable[[str], None]  # called with the name of each step as it begins


@dataclass(frozen=True)
class ReconcileRequest:
    """The options of one reconciliation. `exclusive`: only this pipeline writes the count column of the target."""

    run_id: str
    reports: Path
    repair: bool = False
    exclusive: bool = False
    batch_size: int = 100

    @classmethod
    def of(cls, settings: Settings, run_id: str, *, repair: bool) -> Self:
        """Return the request that the settings describe; reports go to VIEWER_HOME."""
        reports = settings.viewer_home.absolute() / "reports"
        return cls(run_id, reports, repair, settings.target_exclusive, settings.batch_size)


@dataclass(frozen=True)
class ReconcileResult:
    """Differences and repairs of one reconciliation."""

    differences: dict[Kind, int]
    repaired: dict[Kind, int]
    first_differences: list[Difference]
    flushes: list[int]  # of the ledger, that repaired something; each can be undone
    notes: list[str]
    skipped: dict[Kind, str]  # kinds that were not compared, with the reason
    vods: int
    rejected: int
    report: Path
    seconds: float
    finished_at: datetime

    @property
    def remaining(self) -> int:
        """How many differences were not repaired."""
        return sum(self.differences.values()) - sum(self.repaired.values())

    def to_dict(self) -> dict[str, Any]:
        """Return it as `reconcile --json` prints it."""
        checks = self.checks()
        return {
            "status": worst_status(checks),
            "timestamp": format_timestamp(self.finished_at),
            "checks": checks_to_dict(checks),
            "differences": self.differences,
            "repaired": self.repaired,
            "remaining": self.remaining,
            "vods": self.vods,
            "rejected": self.rejected,
            "flushes": self.flushes,
            "notes": self.notes,
            "seconds": self.seconds,
            "report": str(self.report),
            "first_differences": [difference._asdict() for difference in self.first_differences],
        }

    def checks(self) -> list[CheckResult]:
        """Return one result for each name in CHECKS."""
        return [self._check(name, kinds) for name, kinds in CHECKS.items()]

    def _check(self, name: str, kinds: tuple[Kind, ...]) -> CheckResult:
        count, repaired = (sum(counts[kind] for kind in kinds) for counts in (self.differences, self.repaired))
        message = pluralize(count, "difference")
        message += f", {repaired} of them repaired" if repaired else ""
        message = "; ".join(reason for kind, reason in self.skipped.items() if kind in kinds) or message
        rows = [f"{row.subject} {row.message}".strip() for row in self.first_differences if row.kind in kinds]
        return CheckResult.of_rows(name, rows if count != repaired else [], message, passed=count == repaired)


def reconcile(stores: Stores, request: ReconcileRequest, progress: Progress = lambda _: None) -> ReconcileResult:
    """Compare everything, repair if requested, write the report, prune old reports. Safe at any time, and to repeat.

    If it dies while it repairs, the committed repairs are in the ledger; the next flush or reconciliation continues.
    Raises PipelineRefused if FLUSH_STREAMS is not the number of streams that the ledger has.
    """
    started = time.perf_counter()
    streams = stores.of_each_stream()
    stores = streams[0]  # in which adjustments are made
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with DifferenceReport(report_path(request.reports, stamp, request.run_id)) as report:
        progress("totals")
        snapshot_point = compare_totals(stores.ledger.url, report)
        if request.repair and report.differences["total"]:
            with _adjuster(stores, request) as adjuster:
                repair_totals(adjuster, report, snapshot_point)
        progress("target")
        _reconcile_target(stores, request, report)
        progress("parked")
        compare_parked(stores.ledger, report)
        if request.repair and report.differences["parked"]:
            repair_parked(stores.ledger, report)
        progress("marker")
        for stream in streams:
            compare_marker(stream, report)
        progress("counters")
        report_invalid_counters(stores.redis, report)
    prune_reports(report.path)
    return _result(stores, report, time.perf_counter() - started)


def _reconcile_target(stores: Stores, request: ReconcileRequest, report: DifferenceReport) -> None:
    """Compare the target with the current totals, which may just have been repaired."""
    with _adjuster(stores, request) as adjuster:
        target = stores.ledger.target(adjuster.connection)
        if target is None:
            report.skip("target", "TARGET_TABLE is not set")
            return
        if not request.exclusive:
            reason = "TARGET_EXCLUSIVE is not true, so other programs may write its count column"
            report.skip("target", reason)
            report.notes.append(f"the target was not compared: {reason}")
            return
        compare_target(stores.ledger.url, target, report)
        if request.repair and report.differences["target"]:
            repair_target(adjuster, target, report)


@contextmanager
def _adjuster(stores: Stores, request: ReconcileRequest) -> Iterator[Adjuster]:
    with stores.ledger.connect() as connection:
        yield Adjuster(stores, connection, request.run_id, request.batch_size)


def _result(stores: Stores, report: DifferenceReport, seconds: float) -> ReconcileResult:
    with stores.ledger.connect() as connection:
        summary = stored_views_summary(connection)
    return ReconcileResult(
        {kind: report.differences[kind] for kind in KINDS},
        {kind: report.repaired[kind] for kind in KINDS},
        report.first_differences,
        report.flushes,
        report.notes,
        report.skipped,
        summary.vods,
        summary.rejected,
        report.path,
        seconds,
        datetime.now(UTC),
    )
