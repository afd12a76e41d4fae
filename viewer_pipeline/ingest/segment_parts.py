"""Large segments in parts, each written by one script. Pure."""

from __future__ import annotations

import zlib
from collections import Counter

PART_COUNTERS = 500  # counters in one script: holds Redis for about 1 ms

Part = list[tuple[str, int]]


def part_count(views: Counter[str]) -> int:
    """Return how many parts a segment needs, at least one."""
    return -(-len(views) // PART_COUNTERS) or 1


def part_of(vod_id: str, parts: int) -> int:
    """Return the part of a segment that an id belongs to, from 1 on.

    By a hash of the id: two workers that received a segment differently still put an id into the same part.
    """
    return 1 + zlib.crc32(vod_id.encode()) % parts


def split(views: Counter[str], count: int) -> list[Part]:
    """Return the parts of a segment, in order; some may be empty."""
    if count == 1:
        return [list(views.items())]
    parts: list[Part] = [[] for _ in range(count)]
    for vod_id, vod_views in views.items():
        parts[part_of(vod_id, count) - 1].append((vod_id, vod_views))
    return parts
