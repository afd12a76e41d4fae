"""Every metric of `/metrics`: name, type, labels, unit, help text. A test compares docs/metrics.md with it."""

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
    help: str


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        # From PostgreSQL: they survive a restart, and every worker reports the same.
        Family("viewer_flushes_total", "counter", ("mode", "outcome"), "flushes", "Flushes by outcome"),
        Family("viewer_views_persisted_total", "counter", ("mode",), "views", "Views in the ledger"),
        Family(
            "viewer_counters_persisted_total", "counter", ("mode",), "counters", "Counters in the flushes of the ledger"
        ),
        Family("viewer_last_flush_timestamp_seconds", "gauge", (), "Unix seconds", "When the last flush was committed"),
        Family("viewer_flush_seconds", "histogram", ("mode",), "seconds", "Duration of transaction and settling"),
        Family(
            "viewer_drift_views_total",
            "counter",
            ("mode",),
            "views",
            "Views that were missing from counters when they were settled",
        ),
        Family("viewer_rejected_rows", "gauge", ("source", "reason"), "rows", "Rows of viewer.rejected"),
        Family(
            "viewer_open_incidents",
            "gauge",
            ("kind",),
            "incidents",
            "1 for a kind of incident that is not acknowledged",
        ),
        # From Redis, now.
        Family("viewer_pending_counters", "gauge", (), "counters", "VODs in the changed set"),
        Family(
            "viewer_pending_counters_read",
            "gauge",
            (),
            "counters",
            "VODs of the changed set whose views were read, oldest first",
        ),
        Family("viewer_pending_views", "gauge", (), "views", "Views on the counters that were read"),
        Family("viewer_oldest_pending_seconds", "gauge", (), "seconds", "Age of the oldest announced view, 0 for none"),
        # Of this worker, since its start.
        Family("viewer_messages_total", "counter", ("outcome",), "messages", "Received messages by outcome"),
        Family("viewer_messages_rejected_total", "counter", ("reason",), "messages", "Rejected messages by reason"),
        Family("viewer_folds_total", "counter", (), "segments", "Segments folded into Redis"),
        Family("viewer_folded_views_total", "counter", (), "views", "Views folded into Redis"),
        Family(
            "viewer_dropped_views_total",
            "counter",
            (),
            "views",
            "Received views that another worker folded, or that were dropped at a stop",
        ),
        Family(
            "viewer_subscription_losses_total", "counter", ("loss",), "subscriptions", "Lost subscriptions by cause"
        ),
        Family("viewer_lease_takeovers_total", "counter", (), "takeovers", "How often it acquired the lease"),
        Family("viewer_lease_held", "gauge", (), "0 or 1", "Whether this worker holds the lease"),
        Family("viewer_subscriber_state", "gauge", ("state",), "0 or 1", "1 for the current state"),
        Family("viewer_views_in_memory", "gauge", (), "views", "Received views that are not folded yet"),
        Family(
            "viewer_last_message_timestamp_seconds", "gauge", (), "Unix seconds", "When it received the last message"
        ),
        # Reachability.
        Family("viewer_redis_up", "gauge", (), "0 or 1", "Whether Redis answered this scrape in time"),
        Family("viewer_postgres_up", "gauge", (), "0 or 1", "Whether PostgreSQL answered this scrape in time"),
        Family("viewer_dagster_up", "gauge", (), "0 or 1", "Whether Dagster's storage answered this scrape in time"),
        Family(
            "viewer_daemon_up", "gauge", ("daemon",), "0 or 1", "Whether the daemon's heartbeat is younger than 120 s"
        ),
    )
}
