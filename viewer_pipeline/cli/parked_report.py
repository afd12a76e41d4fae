"""Parked views for a terminal: how many, by reason and by VOD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from viewer_pipeline.cli.table_columns import id_column, number_columns
from viewer_pipeline.target.parked_views import ParkedByReason, ParkedViews, ParkedVod
from viewer_pipeline.text_formatting import escape_invisible, pluralize, views_of_vods


@dataclass(frozen=True)
class ParkedReport:
    """What is parked after the requested changes. `discarded` has the views by VOD, None where none were parked."""

    discarded: dict[str, int | None]
    applied: ParkedViews
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
            "applied": self.applied._asdict(),
            **self.total._asdict(),
            "by_reason": [part._asdict() for part in self.by_reason],
            "largest": [vod._asdict() for vod in self.largest],
        }


def print_parked(report: ParkedReport) -> None:
    """Print a report."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for vod_id, views in report.discarded.items():
        console.print(
            f"discarded {pluralize(views, 'view')} of {escape_invisible(vod_id)}"
            if views is not None
            else f"{escape_invisible(vod_id)} has no parked views"
        )
    if report.applied.vods:
        console.print(f"applied {views_of_vods(report.applied.views, report.applied.vods)}")
    console.print(f"parked: {views_of_vods(report.total.views, report.total.vods)}")
    if not report.by_reason:
        return
    reasons = Table("reason", *number_columns("VODs", "views"), "oldest (UTC)")
    for part in report.by_reason:
        reasons.add_row(part.reason, str(part.vods), str(part.views), f"{part.oldest_at:%Y-%m-%d %H:%M}")
    console.print(reasons)
    ids = [escape_invisible(vod.vod_id) for vod in report.largest]
    largest = Table(id_column("VOD", ids), *number_columns("views"), "reason", "since (UTC)", title="most views")
    for vod_id, vod in zip(ids, report.largest, strict=True):
        largest.add_row(vod_id, str(vod.views), vod.reason, f"{vod.first_seen_at:%Y-%m-%d %H:%M}")
    console.print(largest)
