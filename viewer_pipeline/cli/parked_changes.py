"""Applying and discarding parked views by hand."""

from __future__ import annotations

import psycopg

from viewer_pipeline.cli.parked_report import ParkedReport
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.settings import Settings
from viewer_pipeline.target.parked_views import (
    NO_VIEWS,
    ParkedViews,
    all_ready_parked,
    apply_all_parked_to_totals,
    apply_parked,
    discard_parked,
    largest_parked,
    parked_by_reason,
)

MAX_ROWS = 20


def apply_or_discard_parked(settings: Settings, *, apply: bool, discard: tuple[str, ...]) -> ParkedReport:
    """Discard and apply as requested, then return what is still parked. Raises TargetUnusable, PostgresUnavailable."""
    ledger = Ledger.of(settings)
    with ledger.connect() as connection:
        discarded = {vod_id: discard_parked(connection, vod_id, "discarded by hand") for vod_id in discard}
        applied = _apply_all(ledger, connection) if apply else NO_VIEWS
        return ParkedReport(discarded, applied, parked_by_reason(connection), largest_parked(connection, MAX_ROWS))


def _apply_all(ledger: Ledger, connection: psycopg.Connection) -> ParkedViews:
    """Apply all parked views whose rows exist now; without a target table all parked views."""
    target = ledger.target(connection)
    if target is None:
        return apply_all_parked_to_totals(connection)
    pages = [apply_parked(connection, target, vod_ids) for vod_ids in all_ready_parked(connection, target)]
    return ParkedViews(sum(page.vods for page in pages), sum(page.views for page in pages))
