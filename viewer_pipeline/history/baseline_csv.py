"""A CSV file of counts, `vod_id,count` with a header: checked completely before any row is used.

It is read by the module csv. pandas, measured with 3 million rows, was no faster, took twice the memory, and neither
gives the line of a row nor tells a missing field from an empty one.
"""

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
from viewer_pipeline.flush.counter_validation import MAX_COUNT, id_error

HEADER = ["vod_id", "count"]
MAX_REPORTED = 10  # invalid lines in a message


def read_baseline_csv(path: Path) -> Iterator[tuple[str, int]]:
    """Check a file, and return an iterator over its counts. Raises BadCounts, which names invalid lines by number."""
    try:
        with _open(path) as file:
            errors = _line_errors(file)
    except OSError as error:
        raise BadCounts(f"{path}: {error.strerror}") from error
    if errors:
        more = f"; and {errors.total() - MAX_REPORTED} more" if errors.total() > MAX_REPORTED else ""
        raise BadCounts(f"{path}: {'; '.join(list(errors)[:MAX_REPORTED])}{more}")
    return _counts(path)


def _open(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _counts(path: Path) -> Iterator[tuple[str, int]]:
    with _open(path) as file:
        for _, (vod_id, count) in _rows(file):
            yield vod_id, int(count)


def _rows(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of each row after the header."""
    reader = csv.reader(file)
    header = next(reader, [])
    if [name.strip() for name in header] != HEADER:
        raise BadCounts(f"{file.name}: line 1: expected the header {','.join(HEADER)}")
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise BadCounts(f"{file.name}: line {reader.line_num}: {error}") from error


def _line_errors(file: IO[str]) -> Counter[str]:
    """Return the errors of a file: the first ones by line, the others counted. Takes 8 bytes of memory for each id."""
    errors, digests = Counter[str](), array("Q")
    for line, row in _rows(file):
        if error := _vod_id_or_count_error(row):
            errors[f"line {line}: {error}" if len(errors) < MAX_REPORTED else "more"] += 1
        else:
            digests.append(_digest(row[0]))
    if not errors and (repeated := _repeated(digests)):
        file.seek(0)
        candidates = Counter(vod_id for _, (vod_id, _) in _rows(file) if _digest(vod_id) in repeated)
        file.seek(0)
        errors.update(f"line {line}: duplicate id {row[0]!r}" for line, row in _rows(file) if candidates[row[0]] > 1)
    return errors


def _vod_id_or_count_error(row: list[str]) -> str | None:
    if len(row) != len(HEADER):
        return f"expected 2 fields, not {len(row)}"
    vod_id, count = row
    if error := id_error(vod_id):
        return error
    if not (count.isascii() and count.isdigit() and int(count[:20]) <= MAX_COUNT and len(count) <= len(str(MAX_COUNT))):
        return f"count {count[:40]!r}: expected a whole number of 0 to {MAX_COUNT}"
    return None


def _digest(vod_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(vod_id.encode(), digest_size=8).digest(), "little")


def _repeated(digests: array[int]) -> set[int]:
    """Return the digests that occur more than once."""
    ordered = np.sort(np.frombuffer(digests, dtype=np.uint64)) if digests else np.empty(0, np.uint64)
    return {int(digest) for digest in ordered[1:][ordered[1:] == ordered[:-1]]}
