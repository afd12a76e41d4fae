"""Who listens to the producers now, as Redis knows it from the lease."""

from __future__ import annotations

from typing import Any

from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.monitoring.dagster_rules import in_words
from viewer_pipeline.stores.redis import redis_errors


def read_listener(store: RedisStore) -> dict[str, Any]:
    """Return whether somebody holds the lease, who, and what was heard last. Times by the clock of Redis."""
    with redis_errors(store.url):
        fields: Any = store.client.hmget(store.names.subscriber, ["who", "expires", "last_message"])
    now = store.now().timestamp() * 1000
    who, until, heard = (field.decode(errors="replace") if field is not None else None for field in fields)
    silent = None if heard is None else round(max(0.0, now - float(heard)) / 1000, 1)
    last = "no message was heard yet" if silent is None else f"last message {in_words(silent)} ago"
    listens = until is not None and float(until) > now
    state = f"{who} listens" if listens else "nobody listens: messages that are published now are missed"
    said = f"{state}; {last}"
    return {"listens": listens, "who": who if listens else None, "seconds_since_message": silent, "said": said}
