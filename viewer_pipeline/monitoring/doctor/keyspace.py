"""The key space: what a sweep costs here, and counters that are none or will not last. Reads a bounded sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

from viewer_pipeline.flush.counter_reader import READ_COUNT, SCAN_COUNT
from viewer_pipeline.flush.counters import count_error, is_positive_integer
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.redis import as_text

MAX_SCANS = 300  # SCAN calls: holds Redis for about 0.2 ms each
SAMPLE = 5000  # counters that are looked at one by one
SLOW_SWEEP_SECONDS = 20.0
EXAMPLES = 3


@dataclass(frozen=True)
class Keyspace:
    """What was seen of it."""

    keys: int
    scans: int  # SCAN calls that were made
    scan_ms: float  # what one of them took, with its round trip
    whole: bool  # whether they saw all keys
    counters: int  # keys of our prefix among what they saw
    looked_at: int  # of them, one by one
    expiring: dict[str, int] = field(default_factory=dict)  # id -> seconds that are left
    bad: dict[str, str] = field(default_factory=dict)  # id -> why it is no count

    @property
    def sweep_seconds(self) -> float:
        """What the scan of a sweep takes."""
        return round(-(-self.keys // SCAN_COUNT) * self.scan_ms / 1000, 2)


def read_keyspace(store: RedisStore) -> Keyspace:
    """Scan some of the keys. Raises RedisUnavailable, RedisFailed."""
    keys = store.count_keys()
    found: dict[bytes, None] = {}
    times, whole, started = [], True, time.perf_counter()
    for ids in islice(store.swept(), MAX_SCANS):
        times.append(time.perf_counter() - started)
        found.update(dict.fromkeys(ids))
        started = time.perf_counter()
    whole = len(times) < MAX_SCANS
    sample = list(found)[:SAMPLE]
    expiring, bad = _look_at(store, sample)
    scan_ms = round(median(times) * 1000, 3)
    return Keyspace(keys, len(times), scan_ms, whole, len(found), len(sample), expiring, bad)


def _look_at(store: RedisStore, ids: list[bytes]) -> tuple[dict[str, int], dict[str, str]]:
    expiring, bad = dict[str, int](), dict[str, str]()
    for some in chunks(ids, READ_COUNT):
        readings = store.read([list(some)])
        left = store.seconds_to_live(some)
        for raw, value, seconds in zip(readings.ids, readings.values, left, strict=True):
            name = as_text(raw)
            if seconds >= 0:
                expiring[name] = seconds
            if value is None and (kind := readings.types.get(raw, "none")) != "none":
                bad[name] = f"is a {kind}"
            elif value is not None and value != b"0" and not is_positive_integer(value):
                bad[name] = count_error(value)
    return expiring, bad


def judge_keyspace(keyspace: Keyspace, prefix: str) -> Iterator[Finding]:
    """Judge it. Pure."""
    yield _sweep(keyspace, prefix)
    yield _expiring(keyspace, prefix)
    yield _bad(keyspace, prefix)


def _sweep(found: Keyspace, prefix: str) -> Finding:
    seconds, scans = found.sweep_seconds, -(-found.keys // SCAN_COUNT)
    figures = {"keys": found.keys, "counters_seen": found.counters, "sweep_seconds": seconds, "scan_ms": found.scan_ms}
    among = "" if found.whole else f" among the first {found.scans * SCAN_COUNT}"
    what = (
        f"{found.keys} keys, {found.counters} counters {prefix}*{among}: a sweep makes {scans} SCAN calls of"
        f" {found.scan_ms} ms, {seconds} s together"
    )
    if seconds > SLOW_SWEEP_SECONDS:
        do = "set SWEEP_CRON to every ten minutes, or keep counters in a Redis database of their own"
        return Finding("keyspace", "warning", what, do, figures)
    return Finding("keyspace", "ok", what, figures=figures)


def _expiring(found: Keyspace, prefix: str) -> Finding:
    if found.expiring:
        some = ", ".join(f"{prefix}{name} in {left} s" for name, left in list(found.expiring.items())[:EXAMPLES])
        what = f"{len(found.expiring)} of {found.looked_at} counters expire, e.g. {some}"
        do = "let producers set no expiry on counters; PERSIST those that have one"
        return Finding("expiring_counters", "problem", what, do, {"expiring": len(found.expiring)})
    return Finding("expiring_counters", "ok", f"none of {found.looked_at} counters expires")


def _bad(found: Keyspace, prefix: str) -> Finding:
    if found.bad:
        some = ", ".join(f"{prefix}{name} {why}" for name, why in list(found.bad.items())[:EXAMPLES])
        what = f"{len(found.bad)} of {found.looked_at} keys are no counts, e.g. {some}"
        do = "repair or delete them, or choose a COUNTER_PREFIX that nothing else has"
        return Finding("counter_values", "warning", what, do, {"bad": len(found.bad)})
    return Finding("counter_values", "ok", f"all of {found.looked_at} counters hold a number")
