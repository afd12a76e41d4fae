"""Step 2, aggregate: from readings to a DataFrame of one delta per VOD. Pure: no I/O."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from viewer_pipeline.flush.counter_reader import Readings
from viewer_pipeline.flush.counter_validation import (
    MAX_ID_CHARACTERS,
    count_error,
    id_error,
)
from viewer_pipeline.flush.rejects import Reject

BATCH_ROWS = 1000  # rows that are validated together; an invalid row among them costs a loop over these only

_are_counts = re.compile(rb"(?:[1-9][0-9]{0,17}\n)*[1-9][0-9]{0,17}").fullmatch  # 18 digits always fit int64


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
    columns = _Columns()
    read = dict(zip(readings.ids, readings.values, strict=True))
    raws = sorted(read)
    values = [read[raw] for raw in raws]
    for at in range(0, len(raws), BATCH_ROWS):
        rows = raws[at : at + BATCH_ROWS], values[at : at + BATCH_ROWS]
        if not columns.add_if_valid(*rows):
            columns.add_each(*rows, readings.types)
    frame = counts_frame(columns.ids, columns.deltas)
    return Aggregate(frame, columns.rejects, columns.rejected, columns.idle, time.perf_counter() - started)


class _Columns:
    """The columns of an Aggregate while they are filled."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.deltas: list[int] = []
        self.rejects: list[Reject] = []
        self.rejected: list[bytes] = []
        self.idle: list[bytes] = []

    def add_if_valid(self, raws: Sequence[bytes], values: Sequence[bytes | None]) -> bool:
        """Add these rows if all of them are valid, checked on the joined text; else add none."""
        if None in values:
            return False
        counts = b"\n".join(values)  # type: ignore[arg-type]  # holds no None
        if not _are_counts(counts) or counts.count(b"\n") != len(values) - 1:
            return False
        try:
            text = b"\n".join(raws).decode()
        except UnicodeDecodeError:
            return False
        ids = text.split("\n")
        if len(ids) != len(raws) or "\x00" in text or "" in ids or max(map(len, ids)) > MAX_ID_CHARACTERS:
            return False
        self.ids += ids
        self.deltas += map(int, values)  # type: ignore[arg-type]
        return True

    def add_each(self, raws: Sequence[bytes], values: Sequence[bytes | None], types: Mapping[bytes, str]) -> None:
        """Add these rows one by one: to the frame, the idle ids or the rejects."""
        for raw, value in zip(raws, values, strict=True):
            kind = types.get(raw, "none") if value is None else ""
            if kind in ("none", "string") or value == b"0":  # a string: it came after the values were read
                self.idle.append(raw)
            elif reason := _reject_reason(raw, value, kind):
                self.rejects.append(Reject.of("counter", raw, value or b"", reason))
                self.rejected.append(raw)
            else:
                self.ids.append(raw.decode())
                self.deltas.append(int(value or b""))


def _reject_reason(raw: bytes, value: bytes | None, kind: str) -> str | None:
    if value is None:
        return f"key is a {kind}, not a string"
    try:
        return count_error(value) or id_error(raw.decode())
    except UnicodeDecodeError:
        return "id is not UTF-8"


def counts_frame(ids: list[str], deltas: list[int]) -> pd.DataFrame:
    """Return the two columns as a frame with the dtypes that Aggregate promises."""
    return pd.DataFrame({"vod_id": pd.Series(ids, dtype="string"), "delta": pd.Series(deltas, dtype="int64")})


def cut_into_flushes(frame: pd.DataFrame, counters: int) -> Iterator[pd.DataFrame]:
    """Cut the frame into consecutive flushes of at most `counters` rows."""
    for start in range(0, len(frame), counters):
        yield frame.iloc[start : start + counters]
