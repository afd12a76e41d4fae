"""The VODs with the most views in the flushes of a run, from the frames in memory: to sort them again takes long."""

from __future__ import annotations

from heapq import nsmallest

import numpy as np
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
    if not (ids.is_monotonic_increasing and ids.is_unique):  # of several streams or shards; or the run has read twice
        counts = counts.groupby("vod_id", sort=False)["delta"].sum().reset_index()
    top = _largest(counts, limit)
    total_of = totals(connection, [vod_id for vod_id, _ in top])
    return [(vod_id, views, total_of.get(vod_id, 0)) for vod_id, views in top]


def _largest(counts: pd.DataFrame, limit: int) -> list[tuple[str, int]]:
    """Return (vod id, views) of the rows with the most views, without sorting all of them."""
    deltas = counts["delta"].to_numpy()
    if len(deltas) > limit:
        least = np.partition(deltas, -limit)[-limit]
        counts = counts[deltas >= least]
    rows = zip(counts["vod_id"].tolist(), counts["delta"].tolist(), strict=True)
    return nsmallest(limit, rows, key=lambda row: (-row[1], row[0]))
