"""Who listens on the channel: the holder of the lease, other workers, and others that are no workers of ours."""

from __future__ import annotations

from typing import Any, NamedTuple

from viewer_pipeline.counting.redis_client import redis_errors
from viewer_pipeline.counting.redis_store import RedisStore
from viewer_pipeline.local.doctor.finding import Finding
from viewer_pipeline.local.listener import read_listener


class Listeners(NamedTuple):
    """So many connections; the doctor's own is not among them."""

    listens: bool  # somebody holds the lease
    said: str
    workers: int
    others: int


def read_listeners(store: RedisStore, channel: str, space: str, own: int = 0) -> Listeners:
    """Ask. `own`: connections of the doctor on that channel. Raises RedisUnavailable, RedisFailed."""
    found = read_listener(store)
    with redis_errors(store.url):
        counts: Any = store.client.pubsub_numsub(channel, *([store.names.cuts_channel(space)] if space else []))
    all_of_them, workers = int(counts[0][1]) - own, int(counts[1][1]) if space else 0
    return Listeners(found["listens"], found["said"], workers, max(0, all_of_them - workers))


def judge_listeners(found: Listeners, channel: str) -> Finding:
    """Judge it. Pure."""
    figures = {"workers": found.workers, "other_subscribers": found.others}
    others = f"; {found.others} other subscribers of {channel}" if found.others else ""
    if not found.listens:
        return Finding(
            "listener", "warning", f"{found.said}{others}", "start `viewer-pipeline worker` or `up`", figures
        )
    if not found.workers:
        what = f"{found.said}, but nobody is subscribed to its cuts: it ended without a word{others}"
        return Finding("listener", "warning", what, "start `viewer-pipeline worker` or `up`", figures)
    return Finding("listener", "ok", f"{found.said}; {found.workers} workers{others}", figures=figures)
