"""Parked views for a terminal: how many, by reason and by VOD; applying and discarding them by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.parked_views import (
    NO_VIEWS,
    ParkedByReason,
    ParkedViews,
    ParkedVod,
    all_ready_parked,
    apply_all_parked_to_totals,
    apply_parked,
    discard_parked,
    largest_parked,
    parked_by_reason,
)

MAX_ROWS = 20


@dataclass(frozen=True)
class ParkedReport:
    """What is parked after the requested changes. `discarded` has the views by VOD, None where none were parked."""

    discarded: dict[str, int | None]
    counted: ParkedViews
    by_reason: list[ParkedByReason]
    largest: list[ParkedVod]

    @property
    def total(self) -> ParkedViews:
        """All parked views."""
        return ParkedViews(sum(part.vods for part in self.by_reason), sum(part.views for part in self.by_reason))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "discarded": self.discarded,
            "counted": self.counted._asdict(),
            **self.total._asdict(),
            "by_reason": [part._asdict() for part in self.by_reason],
            "largest": [vod._asdict() for vod in self.largest],
        }


def apply_or_discard_parked(settings: Settings, *, apply: bool, discard: tuple[str, ...]) -> ParkedReport:
    """Discard and apply as requested, then return what is still parked. Raises TargetUnusable, PostgresUnavailable."""
    ledger = Ledger.of(settings)
    with ledger.connect() as connection:
        discarded = {vod_id: discard_parked(connection, vod_id, "discarded by hand") for vod_id in discard}
        counted = _apply_all(ledger, connection) if apply else NO_VIEWS
        return ParkedReport(discarded, counted, parked_by_reason(connection), largest_parked(connection, MAX_ROWS))


def _apply_all(ledger: Ledger, connection: psycopg.Connection) -> ParkedViews:
    """Count all parked views whose rows exist now; without a target table all parked views."""
    target = ledger.target(connection)
    if target is None:
        return apply_all_parked_to_totals(connection)
    applied = [apply_parked(connection, target, vod_ids) for vod_ids in all_ready_parked(connection, target)]
    return ParkedViews(sum(part.vods for part in applied), sum(part.views for part in applied))


def print_parked(report: ParkedReport) -> None:
    """Print a report."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for vod_id, views in report.discarded.items():
        console.print(f"discarded {views} views of {vod_id}" if views is not None else f"{vod_id} has no parked views")
    if report.counted.vods:
        console.print(f"counted {report.counted.views} views of {report.counted.vods} VODs")
    console.print(f"parked: {report.total.views} views of {report.total.vods} VODs")
    if not report.by_reason:
        return
    reasons = Table("reason", "VODs", "views", "oldest (UTC)")
    for part in report.by_reason:
        reasons.add_row(part.reason, str(part.vods), str(part.views), f"{part.oldest_at:%Y-%m-%d %H:%M}")
    console.print(reasons)
    largest = Table("VOD", "views", "reason", "since (UTC)", title="most views")
    for vod in report.largest:
        largest.add_row(vod.vod_id, str(vod.views), vod.reason, f"{vod.first_seen_at:%Y-%m-%d %H:%M}")
    console.print(largest)
