"""Who listens on the channel: the holder of the lease, other workers, and others that are no workers of ours."""

from __future__ import annotations

from typing import NamedTuple

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.shared_channel import REMEDY
from viewer_pipeline.monitoring.doctor.finding import Finding
from viewer_pipeline.monitoring.listener import read_listener
from viewer_pipeline.redis_names import presence_channel
from viewer_pipeline.setting_types import PubSubMode


class Listeners(NamedTuple):
    """So many connections; the doctor's own is not among them."""

    listens: bool  # somebody holds the lease
    said: str
    workers: int
    others: int
    other_counters: int  # of them, subscribers of other pipelines that count what they receive


def read_listeners(store: RedisStore, channel: str, space: str, own: int = 0) -> Listeners:
    """Ask. `own`: connections of the doctor on that channel. Raises RedisUnavailable, RedisFailed."""
    found = read_listener(store)
    cuts = [store.names.cuts_channel(space)] if space else []
    subscribed, counting, *rest = store.subscriber_counts(channel, presence_channel(channel), *cuts)
    workers = rest[0] if rest else 0
    others = max(0, subscribed - own - workers)
    return Listeners(found["listens"], found["said"], workers, others, min(others, max(0, counting - workers)))


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


def judge_shared_channel(found: Listeners, channel: str, mode: PubSubMode) -> Finding:
    """Judge whether other pipelines count the same messages. Pure."""
    figures = {"other_counters": found.other_counters}
    if mode == "increment" and found.other_counters:
        what = f"{found.other_counters} subscribers of other pipelines count the messages of {channel}, too"
        return Finding("shared_channel", "warning", what, REMEDY, figures)
    return Finding("shared_channel", "ok", f"no other pipeline counts the messages of {channel}", figures=figures)
