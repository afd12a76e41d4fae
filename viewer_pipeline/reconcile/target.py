"""The user's table against the totals, where nobody else writes the count; parked views that it could take by now."""

from __future__ import annotations

import json

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.reconcile.journal import Difference, Journal
from viewer_pipeline.reconcile.snapshot import snapshot, streamed
from viewer_pipeline.stores.queries import fetch_one, named_queries
from viewer_pipeline.target.parked import all_ready_parked, apply_parked
from viewer_pipeline.target.table import MOST, Target

SQL = named_queries(__name__)

NOT_TAKEN = "no baseline was taken, so what was in it before is not known; run `viewer-pipeline baseline --from-target`"


def compare_target(url: str, target: Target, journal: Journal) -> None:
    """Note each row whose count is not the total. Of VODs that have both."""
    with snapshot(url) as connection:
        if not fetch_one(connection, SQL["has_baseline"])[0]:
            journal.pass_over("target", NOT_TAKEN)
            journal.notes.append(f"the target was not compared: {NOT_TAKEN}")
            return
        for vod_ids, views, count in streamed(connection, target.statement(SQL["reconcile_target"])):
            fits = 0 <= views <= MOST[target.count_type]
            said = f"in {target.said}" if fits else f"in {target.said}, which has no room for it"
            ids = sorted(vod_ids)
            journal.add(Difference("target", ids[0], int(views), count, said, fits, json.dumps(ids)))


def compare_parked(ledger: Ledger, journal: Journal, *, repair: bool) -> None:
    """Note parked views that could be counted now, and count them if told to."""
    with ledger.connect() as connection:
        target = ledger.target(connection)
        if target is None:
            return
        for vod_ids in all_ready_parked(connection, target):
            for vod_id in vod_ids:
                journal.add(Difference("parked", vod_id, None, None, "its row is there and has room", mendable=True))
            if repair and vod_ids:
                journal.mended["parked"] += apply_parked(connection, target, vod_ids).vods
