"""Counters as they were read. Valid counts are kept as text and number, all else as the bytes that Redis returned."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from viewer_pipeline.flush.counter_validation import MAX_ID_CHARACTERS, count_error, id_error

_are_counts = re.compile(rb"(?:[1-9][0-9]{0,17}\n)*[1-9][0-9]{0,17}").fullmatch  # 18 digits always fit int64


@dataclass(frozen=True)
class Readings:
    """`deltas[i]` is what the counter of `vod_ids[i]` held, in order of reading; 0 if that was idle or invalid.

    SCAN may return a key twice: then the last reading counts, in all fields.
    """

    vod_ids: list[str] = field(default_factory=list)
    deltas: array[int] = field(default_factory=lambda: array("q"))
    # By raw id: counters with no views to flush. None: missing, or no string.
    idle_or_invalid: dict[bytes, bytes | None] = field(default_factory=dict)
    types: dict[bytes, str] = field(default_factory=dict)  # of those that are None; "none" where no key exists

    def add(self, raws: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Add a page of counters: `values[i]` is that of `raws[i]` (without prefix), None where it is no string."""
        if self.idle_or_invalid:
            for raw in self.idle_or_invalid.keys() & raws:
                del self.idle_or_invalid[raw]
        if not self._add_if_valid(raws, values):
            for raw, value in zip(raws, values, strict=True):
                self._add_one(raw, value)

    def _add_if_valid(self, raws: Sequence[bytes], values: Sequence[bytes | None]) -> bool:
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
        self.vod_ids.extend(ids)
        self.deltas.extend(map(int, values))  # type: ignore[arg-type]
        return True

    def _add_one(self, raw: bytes, value: bytes | None) -> None:
        is_count = value is not None and value != b"0" and counter_error(raw, value) is None
        if is_count:
            self.idle_or_invalid.pop(raw, None)
        else:
            self.idle_or_invalid[raw] = value
        try:
            vod_id = raw.decode()
        except UnicodeDecodeError:  # no other reading of it is a count
            return
        self.vod_ids.append(vod_id)
        self.deltas.append(int(value or b"") if is_count else 0)


def counter_error(raw: bytes, value: bytes) -> str | None:
    """Return why a counter can never be counted; None if it can, or holds zero."""
    try:
        return count_error(value) or id_error(raw.decode())
    except UnicodeDecodeError:
        return "id is not UTF-8"
