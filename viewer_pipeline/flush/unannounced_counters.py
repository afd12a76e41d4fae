"""Counters that nobody announced: a scan that continues where the last one ended, within a budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.counter_reader import SCAN_COUNT, CounterReader
from viewer_pipeline.flush.readings import Readings

_is_cursor = re.compile(r"[0-9]{1,25}").fullmatch
MAX_CURSOR = 2**80 - 1  # of a cluster: with the number of the node above the 64 bits of its cursor


@dataclass(frozen=True)
class UnannouncedScan:
    """The counters with views among `keys` scanned keys of `all_keys`; the cursor at which the next scan continues."""

    vod_ids: Sequence[str]
    cursor: int
    keys: int
    all_keys: int


def parse_scan_cursor(text: str | None) -> int:
    """Return the cursor of SCAN; 0, with which a scan begins, for any other text."""
    cursor = int(text) if text and _is_cursor(text) else 0
    return cursor if cursor <= MAX_CURSOR else 0


def scan_for_unannounced(store: CounterReader, cursor: int, max_keys: int, max_seconds: float) -> UnannouncedScan:
    """Scan `max_keys` keys; after the last key, begin again once.

    Scans fewer as soon as SCAN has taken `max_seconds` of Redis' time, but all keys if they are at most `max_keys`.
    Returns counters that a flush would persist, announced or not: no rejects. A cursor of another Redis is harmless: it
    may skip keys, which are scanned once the scan has begun again. Writes nothing.
    """
    readings = Readings()
    all_keys = store.count_keys()
    max_seconds = inf if all_keys <= max_keys else max_seconds
    keys, seconds, at_first_key = 0, 0.0, False
    while keys < max_keys and seconds < max_seconds:
        if cursor == 0:
            if at_first_key:
                break
            at_first_key = True
        count = min(SCAN_COUNT, max_keys - keys)
        page = store.scan_page(cursor, count)
        cursor, keys, seconds = page.cursor, keys + count, seconds + page.scan_seconds
        readings.add(page.ids, page.values)
    if at_first_key and cursor == 0:
        keys = all_keys  # SCAN returns some more or fewer than `count`
    vod_ids = aggregate(readings).frame["vod_id"].tolist()
    return UnannouncedScan(vod_ids, cursor, keys, all_keys)
