"""Who receives the producers' messages: the worker that holds the lease, other workers, other subscribers."""

from __future__ import annotations

from typing import NamedTuple

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.other_pipelines_on_channel import REMEDY
from viewer_pipeline.ingest.subscriber_redis_hash import SubscriberState
from viewer_pipeline.monitoring.health_rules import evaluate_future_timestamp
from viewer_pipeline.redis_names import presence_channel
from viewer_pipeline.setting_types import PubSubMode
from viewer_pipeline.settings import Settings
from viewer_pipeline.settings_of_running_up import remedy_of_missing_worker
from viewer_pipeline.text_formatting import pluralize
from viewer_pipeline.time_formatting import format_age, tolerate_clock_skew


class Subscribers(NamedTuple):
    """One reading. The last three are numbers of connections."""

    holder: str  # host and process id of the worker that holds the lease; empty where nobody does
    seconds_since_message: float | None
    workers: int
    others: int  # subscribers of the channel that are no workers of this pipeline
    other_counters: int  # of them, workers of other pipelines that count the messages


def check_subscribers(store: RedisStore, settings: Settings) -> list[CheckResult]:
    """Read Redis and evaluate it. Raises RedisUnavailable, RedisFailed."""
    channel = settings.pubsub_channel
    subscribers = read_subscribers(store, channel)
    shared = evaluate_shared_channel(subscribers, channel, settings.pubsub_mode)
    return [evaluate_lease(subscribers, channel, remedy_of_missing_worker(settings)), shared]


def read_subscribers(store: RedisStore, channel: str) -> Subscribers:
    """Read the lease, by the clock of Redis, and count subscribers. Raises RedisUnavailable, RedisFailed."""
    state = SubscriberState.read(store)
    now_ms = store.now().timestamp() * 1000
    cuts = [store.names.cuts_channel(state.id)] if state.id else []
    subscribed, counting, *counts = store.subscriber_counts(channel, presence_channel(channel), *cuts)
    workers = counts[0] if counts else 0
    others = max(0, subscribed - workers)
    silent = round(tolerate_clock_skew((now_ms - state.last_message) / 1000), 1) if state.last_message else None
    holder = state.worker if state.is_lease_held_by_any_worker(now_ms) else ""
    return Subscribers(holder, silent, workers, others, min(others, max(0, counting - workers)))


def evaluate_lease(subscribers: Subscribers, channel: str, remedy: str) -> CheckResult:
    """Whether a worker receives what is published now. `remedy`: where none does. Pure."""
    details = {
        "holder": subscribers.holder or None,
        "seconds_since_message": subscribers.seconds_since_message,
        "workers": subscribers.workers,
        "other_subscribers": subscribers.others,
    }
    silent, holder = subscribers.seconds_since_message, subscribers.holder
    if future := evaluate_future_timestamp("subscriber", "the last message", silent or 0.0, details):
        return future
    message = f"{holder} listens" if holder else "no worker listens: messages that are published now are missed"
    message += "; no message yet" if silent is None else f"; last message {format_age(silent)}"
    if subscribers.others:
        message += f"; {pluralize(subscribers.others, 'other subscriber')} of {channel}"
    if holder and subscribers.workers:
        return CheckResult("subscriber", "healthy", message, details)
    if holder:
        message += "; but no worker is subscribed: it died, or lost its connection, a moment ago"
    return CheckResult("subscriber", "degraded", message, details, remedy)


def evaluate_shared_channel(subscribers: Subscribers, channel: str, mode: PubSubMode) -> CheckResult:
    """Whether other pipelines count the same messages. Pure."""
    number = subscribers.other_counters
    details = {"other_counters": number}
    if mode == "increment" and number:
        message = f"the messages of {channel} are counted by {pluralize(number, 'worker')} of other pipelines, too"
        return CheckResult("shared_channel", "degraded", message, details, REMEDY)
    return CheckResult("shared_channel", "healthy", f"no other pipeline counts the messages of {channel}", details)
