"""Parked views for a terminal: how many, by reason and by VOD; applying and discarding them by hand."""

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

MAX_ROWS = 20


def change_parked(settings: Settings, *, apply: bool, discard: tuple[str, ...]) -> dict[str, Any]:
    """Discard and apply as requested, then return what is still parked. Raises TargetUnusable, PostgresUnavailable."""
    ledger = Ledger.of(settings)
    with ledger.connect() as connection:
        discarded = {vod_id: discard_parked(connection, vod_id, "discarded by hand") for vod_id in discard}
        counted = _apply_all(ledger) if apply else NO_VIEWS
        by_reason = parked_by_reason(connection)
        return {
            "discarded": discarded,
            "counted": counted._asdict(),
            "vods": sum(group.vods for group in by_reason),
            "views": sum(group.views for group in by_reason),
            "by_reason": [group._asdict() for group in by_reason],
            "largest": [vod._asdict() for vod in largest_parked(connection, MAX_ROWS)],
        }


def _apply_all(ledger: Ledger) -> ParkedViews:
    """Count all parked views whose rows exist now; without a target table all parked views."""
    vods = views = 0
    with ledger.connect() as connection:
        target = ledger.target(connection)
        if target is None:
            return apply_all_to_totals(connection)
        for vod_ids in all_ready_parked(connection, target):
            applied = apply_parked(connection, target, vod_ids)
            vods, views = vods + applied.vods, views + applied.views
    return ParkedViews(vods, views)


def show_parked(result: dict[str, Any]) -> None:
    """Print the result of `change_parked`."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for vod_id, views in result["discarded"].items():
        console.print(f"discarded {views} views of {vod_id}" if views is not None else f"{vod_id} has no parked views")
    if result["counted"]["vods"]:
        console.print(f"counted {result['counted']['views']} views of {result['counted']['vods']} VODs")
    console.print(f"parked: {result['views']} views of {result['vods']} VODs")
    if not result["vods"]:
        return
    reasons = Table("reason", "VODs", "views", "oldest (UTC)")
    for group in result["by_reason"]:
        reasons.add_row(group["reason"], str(group["vods"]), str(group["views"]), f"{group['oldest']:%Y-%m-%d %H:%M}")
    console.print(reasons)
    largest = Table("VOD", "views", "reason", "since (UTC)", title="most views")
    for vod in result["largest"]:
        largest.add_row(vod["vod_id"], str(vod["views"]), vod["reason"], f"{vod['first_seen']:%Y-%m-%d %H:%M}")
    console.print(largest)
