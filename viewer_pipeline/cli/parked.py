"""Parked views for a terminal: how many, why, whose; counting them and giving them up by hand."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.parked import (
    NO_VIEWS,
    ParkedViews,
    all_ready_parked,
    apply_all_to_totals,
    apply_parked,
    discard_parked,
    largest_parked,
    parked_by_reason,
)
from viewer_pipeline.target.table import TargetNames

SHOWN = 20


def act_on_parked(settings: Settings, *, apply: bool, discard: tuple[str, ...]) -> dict[str, Any]:
    """Discard and apply as asked, then tell what is parked. Raises TargetUnusable, PostgresUnavailable."""
    ledger = Ledger(settings.require_database_url(), TargetNames.of(settings))
    with ledger.connect() as connection:
        given_up = {vod_id: discard_parked(connection, vod_id, "discarded by hand") for vod_id in discard}
        counted = _apply_all(ledger) if apply else NO_VIEWS
        by_reason = parked_by_reason(connection)
        return {
            "discarded": given_up,
            "counted": counted._asdict(),
            "vods": sum(one.vods for one in by_reason),
            "views": sum(one.views for one in by_reason),
            "by_reason": [one._asdict() for one in by_reason],
            "largest": [one._asdict() for one in largest_parked(connection, SHOWN)],
        }


def _apply_all(ledger: Ledger) -> ParkedViews:
    """Count all parked views whose rows are there, however many are parked; without a target table all there are."""
    vods = views = 0
    with ledger.connect() as connection:
        target = ledger.target(connection)
        if target is None:
            return apply_all_to_totals(connection)
        for vod_ids in all_ready_parked(connection, target):
            applied = apply_parked(connection, target, vod_ids)
            vods, views = vods + applied.vods, views + applied.views
    return ParkedViews(vods, views)


def show_parked(found: dict[str, Any]) -> None:
    """Print it."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for vod_id, views in found["discarded"].items():
        console.print(f"discarded {views} views of {vod_id}" if views is not None else f"{vod_id} has no parked views")
    if found["counted"]["vods"]:
        console.print(f"counted {found['counted']['views']} views of {found['counted']['vods']} VODs")
    console.print(f"parked: {found['views']} views of {found['vods']} VODs")
    if not found["vods"]:
        return
    reasons = Table("why", "VODs", "views", "oldest (UTC)")
    for one in found["by_reason"]:
        reasons.add_row(one["reason"], str(one["vods"]), str(one["views"]), f"{one['oldest']:%Y-%m-%d %H:%M}")
    console.print(reasons)
    largest = Table("VOD", "views", "why", "since (UTC)", title="most views")
    for one in found["largest"]:
        largest.add_row(one["vod_id"], str(one["views"]), one["reason"], f"{one['first_seen']:%Y-%m-%d %H:%M}")
    console.print(largest)
