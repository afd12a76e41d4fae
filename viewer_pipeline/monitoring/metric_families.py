"""Every metric of `/metrics`: name, type, labels, unit, meaning. A test holds docs/metrics.md to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Family:
    """One metric; a counter's name ends in `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    said: str


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        # Of PostgreSQL: they survive a restart, and every worker shows the same.
        Family("viewer_flushes_total", "counter", ("mode", "outcome"), "flushes", "Flushes by how they ended"),
        Family("viewer_views_persisted_total", "counter", ("mode",), "views", "Views in the ledger"),
        Family("viewer_counters_persisted_total", "counter", ("mode",), "counters", "Counters in the ledger's flushes"),
        Family("viewer_last_flush_timestamp_seconds", "gauge", (), "Unix seconds", "When the last flush was committed"),
        Family("viewer_flush_seconds", "histogram", ("mode",), "seconds", "How long transaction and settling took"),
        Family("viewer_drift_views_total", "counter", ("mode",), "views", "Views that counters should have held"),
        Family("viewer_rejected_rows", "gauge", ("source", "reason"), "rows", "Rows of viewer.rejected"),
        Family("viewer_open_incidents", "gauge", ("kind",), "incidents", "1 for a kind that nobody has acknowledged"),
        # Of Redis, now.
        Family("viewer_pending_counters", "gauge", (), "counters", "VODs in the changed set"),
        Family("viewer_pending_counters_read", "gauge", (), "counters", "Of them, the oldest, read for their views"),
        Family("viewer_pending_views", "gauge", (), "views", "Views on the counters that were read"),
        Family("viewer_oldest_pending_seconds", "gauge", (), "seconds", "Age of the oldest announced view, 0 for none"),
        # Of this worker, since it was started.
        Family("viewer_messages_total", "counter", ("outcome",), "messages", "Messages heard: accepted or rejected"),
        Family("viewer_messages_rejected_total", "counter", ("reason",), "messages", "Rejected messages by reason"),
        Family("viewer_folds_total", "counter", (), "segments", "Segments folded into Redis"),
        Family("viewer_folded_views_total", "counter", (), "views", "Views folded into Redis"),
        Family(
            "viewer_dropped_views_total", "counter", (), "views", "Views heard that another worker folded, or given up"
        ),
        Family("viewer_subscription_losses_total", "counter", ("loss",), "subscriptions", "Subscriptions that broke"),
        Family("viewer_lease_takeovers_total", "counter", (), "takeovers", "How often it took the lease"),
        Family("viewer_lease_held", "gauge", (), "0 or 1", "Whether this worker holds the lease"),
        Family("viewer_subscriber_state", "gauge", ("state",), "0 or 1", "1 for the state it is in"),
        Family("viewer_views_in_memory", "gauge", (), "views", "Views heard and not folded yet"),
        Family("viewer_last_message_timestamp_seconds", "gauge", (), "Unix seconds", "When it heard the last message"),
        # Who answers.
        Family("viewer_redis_up", "gauge", (), "0 or 1", "Whether Redis answered this scrape in time"),
        Family("viewer_postgres_up", "gauge", (), "0 or 1", "Whether PostgreSQL answered this scrape in time"),
        Family("viewer_dagster_up", "gauge", (), "0 or 1", "Whether Dagster's storage answered this scrape in time"),
        Family(
            "viewer_daemon_up", "gauge", ("daemon",), "0 or 1", "Whether the daemon's heartbeat is younger than 120 s"
        ),
    )
}
