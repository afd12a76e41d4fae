"""Who listens to the producers now, as Redis knows it from the lease."""

from __future__ import annotations

from typing import Any

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.subscriber_state import SubscriberState
from viewer_pipeline.monitoring.dagster_rules import in_words


def read_listener(store: RedisStore) -> dict[str, Any]:
    """Return whether somebody holds the lease, who, and what was heard last. Times by the clock of Redis."""
    subscriber = SubscriberState.read(store)
    now = store.now().timestamp() * 1000
    who, listens = subscriber.worker, subscriber.is_held(now)
    silent = round(max(0.0, now - subscriber.last_message) / 1000, 1) if subscriber.last_message else None
    last = "no message was heard yet" if silent is None else f"last message {in_words(silent)} ago"
    state = f"{who} listens" if listens else "nobody listens: messages that are published now are missed"
    said = f"{state}; {last}"
    return {"listens": listens, "who": who if listens else None, "seconds_since_message": silent, "said": said}
