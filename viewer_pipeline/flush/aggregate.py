"""Step 2, aggregate: from readings to a DataFrame of one delta per VOD. Pure: no I/O."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from viewer_pipeline.flush.readings import Readings, counter_error
from viewer_pipeline.flush.rejects import Reject

Column = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Aggregate:
    """`frame`: columns vod_id (string) and delta (int64, > 0), sorted by vod_id in code point order, ids unique."""

    frame: pd.DataFrame
    rejects: Sequence[Reject] = ()
    rejected: Sequence[bytes] = ()  # raw ids of the rejects
    idle: Sequence[bytes] = ()  # raw ids whose counter is gone or zero
    seconds: float = 0.0  # duration of aggregate()

    @property
    def views(self) -> int:
        """Sum of the deltas, in views; exact also beyond int64."""
        return sum(self.frame["delta"].tolist())


def aggregate(readings: Readings) -> Aggregate:
    """Turn readings into one delta per VOD.

    SCAN may return a key twice: each key counts once. Zero and missing counters are idle; a value that is no positive
    int64, or an id that PostgreSQL cannot hold, is a reject.
    """
    started = time.perf_counter()
    rejects, rejected, idle = list[Reject](), list[bytes](), list[bytes]()
    for raw in sorted(readings.idle_or_invalid):
        value, kind = readings.idle_or_invalid[raw], readings.types.get(raw, "none")
        if value == b"0" or (value is None and kind in ("none", "string")):  # a string: it came after the values
            idle.append(raw)
        else:
            reason = counter_error(raw, value) if value is not None else f"key is a {kind}, not a string"
            rejects.append(Reject.of("counter", raw, value or b"", reason or ""))
            rejected.append(raw)
    return Aggregate(_sorted_frame(readings), rejects, rejected, idle, time.perf_counter() - started)


def _sorted_frame(readings: Readings) -> pd.DataFrame:
    """Return the counts as a frame: sorted, and of each id the last reading, unless that is no count."""
    ids, deltas = np.array(readings.vod_ids, object), np.array(readings.deltas, np.int64)
    order, is_last = _sort(readings.vod_ids, ids)
    order = order[is_last & (deltas[order] > 0)]
    return counts_frame(ids[order], deltas[order])


def _sort(ids: list[str], keys: Column) -> tuple[Column, Column]:
    """Return the positions of the ids in code point order; and which of them are the last of equal ids, as given.

    `keys`: the same ids as an array.
    """
    text = "".join(ids)
    if text and text.isascii() and len({*map(len, ids)}) == 1:  # as generated ids are: in half the time
        keys = np.frombuffer(text.encode(), f"S{len(ids[0])}")
        order = keys.argsort(kind="stable")
    else:
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.intp)
    keys = keys[order]
    is_last = np.ones(len(ids), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_last[:-1])
    return order, is_last


def counts_frame(ids: Sequence[str] | Column, deltas: Sequence[int] | Column) -> pd.DataFrame:
    """Return the two columns as a frame with the dtypes that Aggregate promises."""
    columns = {"vod_id": pd.array(ids, dtype="string"), "delta": np.asarray(deltas, np.int64)}
    return pd.DataFrame(columns, copy=False)


def cut_into_flushes(frame: pd.DataFrame, counters: int) -> Iterator[pd.DataFrame]:
    """Cut the frame into consecutive flushes of at most `counters` rows."""
    for start in range(0, len(frame), counters):
        yield frame.iloc[start : start + counters]
