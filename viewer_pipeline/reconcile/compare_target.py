"""The user's table against the totals, if only this pipeline writes it; and parked views that it can take now."""

from __future__ import annotations

import json

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.reconcile.difference_csv import Difference, DifferenceReport
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.postgres import open_snapshot
from viewer_pipeline.target.parked_views import all_ready_parked
from viewer_pipeline.target.table import MAX_COUNTS, Target

SQL = named_queries(__name__)

NO_BASELINE = (
    "no baseline was taken, so the counts that existed before are not known; run"
    f" `{command_to_type('baseline --from-target')}`"
)


def compare_target(url: str, target: Target, report: DifferenceReport) -> None:
    """Report each row whose count is not the total, of VODs that have both."""
    with open_snapshot(url) as connection, connection.cursor() as cursor:
        if not fetch_one(connection, SQL["has_baseline"])[0]:
            report.skip("target", NO_BASELINE)
            report.notes.append(f"the target was not compared: {NO_BASELINE}")
            return
        for vod_ids, views, count in cursor.stream(target.statement(SQL["reconcile_target"])):
            fits = 0 <= views <= MAX_COUNTS[target.count_type]
            message = f"in {target.sql_name}" if fits else f"in {target.sql_name}, whose column cannot hold the total"
            ids = sorted(vod_ids)
            report.add(Difference("target", ids[0], views, count, message, fits, json.dumps(ids)))


def compare_parked(ledger: Ledger, report: DifferenceReport) -> None:
    """Report parked views that the target could take now."""
    with ledger.connect() as connection:
        target = ledger.target(connection)
        if target is None:
            return
        for vod_ids in all_ready_parked(connection, target):
            for vod_id in vod_ids:
                message = "its row exists and has room"
                report.add(Difference("parked", vod_id, None, None, message, repairable=True))
