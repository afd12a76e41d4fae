"""A file of counts, `vod_id,count` with a header: checked as a whole before any of it is taken."""

from __future__ import annotations

import csv
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from viewer_pipeline.errors import BadCounts
from viewer_pipeline.flush.counters import MAX_COUNT, why_no_id

HEADER = ["vod_id", "count"]
TOLD = 10  # bad lines in a message


def read_counts(path: Path) -> Iterator[tuple[str, int]]:
    """Check a file, and return what yields its counts. Raises BadCounts, which names bad lines by number."""
    try:
        with _opened(path) as file:
            bad = _bad_lines(file)
    except OSError as error:
        raise BadCounts(f"{path}: {error.strerror}") from error
    if bad:
        more = f"; and {bad.total() - TOLD} more" if bad.total() > TOLD else ""
        raise BadCounts(f"{path}: {'; '.join(list(bad)[:TOLD])}{more}")
    return _counts(path)


def _opened(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _counts(path: Path) -> Iterator[tuple[str, int]]:
    with _opened(path) as file:
        for _, (vod_id, count) in _rows(file):
            yield vod_id, int(count)


def _rows(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields, the header left out."""
    reader = csv.reader(file)
    header = next(reader, [])
    if [name.strip() for name in header] != HEADER:
        raise BadCounts(f"{file.name}: line 1: expected the header {','.join(HEADER)}")
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise BadCounts(f"{file.name}: line {reader.line_num}: {error}") from error


def _bad_lines(file: IO[str]) -> Counter[str]:
    """Say each bad line, the first ones in words; ids are remembered in 8 bytes each."""
    bad, digests = Counter[str](), array("Q")
    for line, row in _rows(file):
        if said := _why_bad(row):
            bad[f"line {line}: {said}" if len(bad) < TOLD else "more"] += 1
        else:
            digests.append(_digest(row[0]))
    if not bad and (twice := _twice(digests)):
        file.seek(0)
        seen = Counter(vod_id for _, (vod_id, _) in _rows(file) if _digest(vod_id) in twice)
        file.seek(0)
        bad.update(f"line {line}: {row[0]!r} is there twice" for line, row in _rows(file) if seen[row[0]] > 1)
    return bad


def _why_bad(row: list[str]) -> str | None:
    if len(row) != len(HEADER):
        return f"expected 2 fields, not {len(row)}"
    vod_id, count = row
    if said := why_no_id(vod_id):
        return said
    if not (count.isascii() and count.isdigit() and int(count[:20]) <= MAX_COUNT and len(count) <= len(str(MAX_COUNT))):
        return f"count {count[:40]!r}: expected a whole number of 0 to {MAX_COUNT}"
    return None


def _digest(vod_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(vod_id.encode(), digest_size=8).digest(), "little")


def _twice(digests: array[int]) -> set[int]:
    """Return those that are there more than once."""
    ordered = np.sort(np.frombuffer(digests, dtype=np.uint64)) if digests else np.empty(0, np.uint64)
    return {int(digest) for digest in ordered[1:][ordered[1:] == ordered[:-1]]}
