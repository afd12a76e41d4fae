"""Large segments in parts, each written by one script. Pure."""

from __future__ import annotations

import zlib
from collections import Counter

PART_COUNTERS = 500  # counters in one script: holds Redis for about 1 ms

Part = list[tuple[str, int]]


def part_count(views: Counter[str]) -> int:
    """Return how many parts a segment needs, at least one."""
    return -(-len(views) // PART_COUNTERS) or 1


def split(views: Counter[str], count: int) -> list[Part]:
    """Return the parts of a segment, in order; a part may be empty.

    By a hash of the id: two workers that received a segment differently still put an id into the same part.
    """
    if count == 1:
        return [list(views.items())]
    parts: list[Part] = [[] for _ in range(count)]
    for vod_id, vod_views in views.items():
        parts[zlib.crc32(vod_id.encode()) % count].append((vod_id, vod_views))
    return parts
