"""Reconcile: compare, and mend where told to. Each comparison is of one moment; flushes may run meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.ledger import sums
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile.adjust import Adjuster
from viewer_pipeline.reconcile.journal import KINDS, Difference, Journal, Kind
from viewer_pipeline.reconcile.mend import mend_target, mend_totals
from viewer_pipeline.reconcile.redis_side import compare_counters, compare_marker
from viewer_pipeline.reconcile.reports import forget_old_reports, report_path
from viewer_pipeline.reconcile.target import compare_parked, compare_target
from viewer_pipeline.reconcile.totals import compare_totals
from viewer_pipeline.settings import Settings

CHECKS: dict[str, tuple[Kind, ...]] = {
    "totals_equal_history": ("total", "given_up"),
    "target_equals_totals": ("target",),
    "marker_follows_ledger": ("marker",),
    "counters_are_counts": ("counter",),
    "nothing_waits_for_its_row": ("parked",),
}
STEPS = ("totals", "target", "parked", "marker", "counters")

Progress = Callable[[str], None]  # told the name of each step as it begins


@dataclass(frozen=True)
class Reconcile:
    """What one reconciliation is to do. `exclusive`: nobody but this pipeline writes the count of the target."""

    run_id: str
    reports: Path
    repair: bool = False
    exclusive: bool = False
    batch_size: int = 100

    @classmethod
    def of(cls, settings: Settings, run_id: str, *, repair: bool) -> Self:
        """Return what the settings say; reports go to VIEWER_HOME."""
        reports = settings.viewer_home.absolute() / "reports"
        return cls(run_id, reports, repair, settings.target_exclusive, settings.batch_size)


@dataclass(frozen=True)
class Reconciled:
    """What it found, and what of that it mended."""

    found: dict[Kind, int]
    mended: dict[Kind, int]
    first: list[Difference]
    flushes: list[int]  # of the ledger, that mended; each can be undone
    notes: list[str]
    passed_over: dict[Kind, str]  # what was not compared, and why
    vods: int
    rejected: int
    report: Path
    seconds: float

    @property
    def remaining(self) -> int:
        """How many differences there are still."""
        return sum(self.found.values()) - sum(self.mended.values())

    def shown(self) -> dict[str, Any]:
        """Return it for JSON."""
        numbers = {"found": self.found, "mended": self.mended, "remaining": self.remaining, "rejected": self.rejected}
        first = [one._asdict() for one in self.first]
        rest = {"vods": self.vods, "flushes": self.flushes, "notes": self.notes, "seconds": self.seconds}
        return {**numbers, **rest, "report": str(self.report), "first": first}

    def checks(self) -> list[CheckResult]:
        """Return one result for each name in CHECKS."""
        return [self._check(name, kinds) for name, kinds in CHECKS.items()]

    def _check(self, name: str, kinds: tuple[Kind, ...]) -> CheckResult:
        found, mended = (sum(counts[kind] for kind in kinds) for counts in (self.found, self.mended))
        said = "1 difference" if found == 1 else f"{found} differences"
        said += f", {mended} of them mended" if mended else ""
        said = "; ".join(why for kind, why in self.passed_over.items() if kind in kinds) or said
        failing = [f"{one.subject} {one.said}".strip() for one in self.first if one.kind in kinds]
        return CheckResult.of_rows(name, failing if found != mended else [], said, passed=found == mended)


def reconcile(stores: Stores, what: Reconcile, progress: Progress = lambda _: None) -> Reconciled:
    """Compare everything, mend if told to, write the report; old reports go. Safe at any time, as often as you like.

    Where it dies while it mends, what was committed is in the ledger, and the next flush or reconciliation goes on.
    """
    started = time.perf_counter()
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with Journal(report_path(what.reports, stamp, what.run_id)) as journal:
        progress("totals")
        basis = compare_totals(stores.ledger.url, journal)
        if what.repair and journal.counts["total"]:
            with _adjuster(stores, what) as adjuster:
                mend_totals(adjuster, journal, basis)
        progress("target")
        _target(stores, what, journal)
        progress("parked")
        compare_parked(stores.ledger, journal, repair=what.repair)
        progress("marker")
        compare_marker(stores, journal)
        progress("counters")
        compare_counters(stores.redis, journal)
    forget_old_reports(journal.path)
    return _reconciled(stores, journal, time.perf_counter() - started)


def _target(stores: Stores, what: Reconcile, journal: Journal) -> None:
    """Compare the target with the totals as they are by now."""
    with _adjuster(stores, what) as adjuster:
        target = stores.ledger.target(adjuster.connection)
        if target is None:
            journal.pass_over("target", "TARGET_TABLE is not set")
            return
        if not what.exclusive:
            why = "TARGET_EXCLUSIVE is not true, others may write its count"
            journal.pass_over("target", why)
            journal.notes.append(f"the target was not compared: {why}")
            return
        compare_target(stores.ledger.url, target, journal)
        if what.repair and journal.counts["target"]:
            mend_target(adjuster, target, journal)


@contextmanager
def _adjuster(stores: Stores, what: Reconcile) -> Iterator[Adjuster]:
    with stores.ledger.connect() as connection:
        yield Adjuster(stores, connection, what.run_id, what.batch_size)


def _reconciled(stores: Stores, journal: Journal, seconds: float) -> Reconciled:
    with stores.ledger.connect() as connection:
        have = sums(connection)
    return Reconciled(
        {kind: journal.counts[kind] for kind in KINDS},
        {kind: journal.mended[kind] for kind in KINDS},
        journal.first,
        journal.flushes,
        journal.notes,
        journal.passed_over,
        have.vods,
        have.rejected,
        journal.path,
        seconds,
    )
