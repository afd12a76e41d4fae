"""The time axis of the charts: the last three hours in buckets of two minutes. Pure."""

from __future__ import annotations

BUCKET_SECONDS, BUCKETS = 120, 90


def bucket_of(time: float) -> int:
    """Return the number of the bucket, since 1970, of a Unix time."""
    return int(time) // BUCKET_SECONDS


def last_buckets(now: float) -> range:
    """Return the numbers of the buckets up to now, which is in the last one."""
    return range(bucket_of(now) - BUCKETS + 1, bucket_of(now) + 1)
