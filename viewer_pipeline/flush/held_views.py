"""Held views (rule R16): views that were found in a Redis without its marker, and may have been counted before.

A Redis that has lost its marker was emptied, or was restored from a copy that is older than the marker. In the second
case its counters hold views that PostgreSQL has counted. Of each counter, at most as many views as were ever counted of
that VOD can be such views. They go to `viewer.held`, in a flush of the mode `hold`, and an operator decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import psycopg

from viewer_pipeline.flush.aggregate import counts_frame
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.named_queries import named_queries

SQL = named_queries(__name__)

PAGE_SIZE = 10_000  # VODs


class SplitFrame(NamedTuple):
    """A frame of Aggregate in two: views that are new for certain, and views that may have been counted before."""

    new: pd.DataFrame
    held: pd.DataFrame


def split_frame(connection: psycopg.Connection, frame: pd.DataFrame) -> SplitFrame:
    """Split each delta: as many views as were ever counted of the VOD are held, the rest is new.

    What was counted is read now. It is the same at the commit, or a flush has committed in between and supersedes this
    one. Its own flushes of new views only add to it.
    """
    ids, deltas = frame["vod_id"].to_numpy(object), frame["delta"].to_numpy()
    before = dict(row for page in chunks(ids.tolist(), PAGE_SIZE) for row in _counted_before(connection, page))
    held = np.minimum(deltas, np.array([before.get(vod_id, 0) for vod_id in ids], np.int64))
    new = deltas - held
    return SplitFrame(counts_frame(ids[new > 0], new[new > 0]), counts_frame(ids[held > 0], held[held > 0]))


def _counted_before(connection: psycopg.Connection, vod_ids: Sequence[str]) -> list[tuple[str, int]]:
    return connection.execute(SQL["views_counted_before"], {"vod_ids": list(vod_ids)}).fetchall()
