"""The VODs with the most views in the flushes of a run, from the frames in memory: to sort them again takes long."""

from __future__ import annotations

import pandas as pd
import psycopg

from viewer_pipeline.flush.aggregate import counts_frame
from viewer_pipeline.flush.ledger_reads import counters_of_flushes, totals
from viewer_pipeline.flush.run_report import RunReport


def most_viewed_vods(connection: psycopg.Connection, report: RunReport, limit: int) -> list[tuple[str, int, int]]:
    """Return (vod id, views in the flushes of this run, total) of the VODs with the most views; equal ones by id."""
    frames = [committed.frame for committed in report.committed]
    if report.recovered:  # of an earlier attempt of the step, whose frames are gone
        frames.append(counts_frame(*counters_of_flushes(connection, [flush.seq for flush in report.recovered])))
    if not frames:
        return []
    counts = pd.concat(frames, ignore_index=True)
    ids = counts["vod_id"]
    if not (ids.is_monotonic_increasing and ids.is_unique):  # the run has read twice: another one committed first
        counts = counts.groupby("vod_id")["delta"].sum().reset_index()
    top = counts.nlargest(limit, "delta")
    total_of = totals(connection, top["vod_id"].tolist())
    rows = zip(top["vod_id"].tolist(), top["delta"].tolist(), strict=True)
    return [(vod_id, views, total_of.get(vod_id, 0)) for vod_id, views in rows]
