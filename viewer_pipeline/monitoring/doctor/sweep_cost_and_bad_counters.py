"""The key space: the cost of a sweep, and counters that expire or hold no number. Reads a bounded sample."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.counter_reader import READ_COUNT, SCAN_COUNT
from viewer_pipeline.flush.counter_validation import count_error
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.stores.chunks import chunks
from viewer_pipeline.stores.redis import as_text
from viewer_pipeline.text_formatting import pluralize

MAX_SCANS = 600  # SCAN calls: each blocks Redis for about 0.4 ms
MAX_COUNTERS = 5000  # whose values and expiries are read
SLOW_SWEEP_SECONDS = 20.0
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class KeyspaceSample:
    """A sample of the key space."""

    keys: int
    scans: int  # SCAN calls that were made
    scan_ms: float  # duration of one, with its round trip
    complete: bool  # whether they covered all keys
    counters: int  # keys of our prefix that they returned
    counters_read: int
    expiring: dict[str, int] = field(default_factory=dict)  # id -> seconds that remain
    invalid: dict[str, str] = field(default_factory=dict)  # id -> why it is no count


def check_keyspace(store: RedisStore) -> list[CheckResult]:
    """Read a sample and evaluate it. Raises RedisUnavailable, RedisFailed."""
    return evaluate_sweep_cost_and_counters(sample_keyspace(store), store.prefix_text)


def sample_keyspace(store: RedisStore) -> KeyspaceSample:
    """Scan a part of the keys. Raises RedisUnavailable, RedisFailed."""
    keys = store.count_keys()
    counters: dict[bytes, None] = {}
    durations, started = [], time.perf_counter()
    for ids in islice(store.scan_counters(), MAX_SCANS):
        durations.append(time.perf_counter() - started)
        counters.update(dict.fromkeys(ids))
        started = time.perf_counter()
    complete = len(durations) < MAX_SCANS
    sample = list(counters)[:MAX_COUNTERS]
    expiring, invalid = _find_expiring_and_invalid(store, sample)
    scan_ms = round(median(durations) * 1000, 3)
    return KeyspaceSample(keys, len(durations), scan_ms, complete, len(counters), len(sample), expiring, invalid)


def _find_expiring_and_invalid(store: RedisStore, ids: list[bytes]) -> tuple[dict[str, int], dict[str, str]]:
    expiring, invalid = dict[str, int](), dict[str, str]()
    for chunk in chunks(ids, READ_COUNT):
        values = store.values(chunk)
        types = store.types(raw for raw, value in zip(chunk, values, strict=True) if value is None)
        for raw, value, seconds in zip(chunk, values, store.seconds_to_live(chunk), strict=True):
            name = as_text(raw)
            if seconds >= 0:
                expiring[name] = seconds
            if value is None and (kind := types.get(raw, "none")) != "none":
                invalid[name] = f"is a {kind}"
            elif value is not None and (error := count_error(value)):
                invalid[name] = error
    return expiring, invalid


def evaluate_sweep_cost_and_counters(keyspace: KeyspaceSample, prefix: str) -> list[CheckResult]:
    """Evaluate everything. Pure."""
    return [
        _evaluate_sweep(keyspace, prefix),
        _evaluate_expiring(keyspace, prefix),
        _evaluate_invalid(keyspace, prefix),
    ]


def _evaluate_sweep(keyspace: KeyspaceSample, prefix: str) -> CheckResult:
    scans = -(-keyspace.keys // SCAN_COUNT)
    seconds = round(scans * keyspace.scan_ms / 1000, 2)
    details = {
        "keys": keyspace.keys,
        "counters": keyspace.counters,
        "sweep_seconds": seconds,
        "scan_ms": keyspace.scan_ms,
    }
    among = "" if keyspace.complete else f" among the first {keyspace.scans * SCAN_COUNT}"
    message = (
        f"{pluralize(keyspace.keys, 'key')}, {pluralize(keyspace.counters, 'counter')} {prefix}*{among}: a sweep makes"
        f" {pluralize(scans, 'SCAN call')} of {keyspace.scan_ms} ms, {seconds} s in total"
    )
    if seconds > SLOW_SWEEP_SECONDS:
        remedy = "set SWEEP_CRON to every ten minutes, or keep the counters in a Redis database of their own"
        return CheckResult("keyspace", "degraded", message, details, remedy)
    return CheckResult("keyspace", "healthy", message, details)


def _evaluate_expiring(keyspace: KeyspaceSample, prefix: str) -> CheckResult:
    number, read = len(keyspace.expiring), keyspace.counters_read
    details = {"expiring": number, "counters_read": read}
    if number:
        items = list(keyspace.expiring.items())[:MAX_EXAMPLES]
        examples = ", ".join(f"{prefix}{name} in {seconds} s" for name, seconds in items)
        message = f"{number} of {pluralize(read, 'counter')} with an expiry, e.g. {examples}"
        remedy = "let producers set no expiry on counters; PERSIST those that have one"
        return CheckResult("expiring_counters", "unhealthy", message, details, remedy)
    return CheckResult("expiring_counters", "healthy", f"no counter expires ({read} read)", details)


def _evaluate_invalid(keyspace: KeyspaceSample, prefix: str) -> CheckResult:
    number, read = len(keyspace.invalid), keyspace.counters_read
    details = {"invalid": number, "counters_read": read}
    if number:
        items = list(keyspace.invalid.items())[:MAX_EXAMPLES]
        examples = ", ".join(f"{prefix}{name} {reason}" for name, reason in items)
        message = f"{number} of {pluralize(read, 'key')} without a count, e.g. {examples}"
        remedy = "repair or delete them, or choose a COUNTER_PREFIX that no other keys have"
        return CheckResult("counter_values", "degraded", message, details, remedy)
    return CheckResult("counter_values", "healthy", f"every counter holds a number ({read} read)", details)
