"""Every metric of `/metrics`: name, type, labels, unit, help text. A test compares docs/metrics.md with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class MetricFamily:
    """One metric; a counter's name ends in `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    help: str


METRIC_FAMILIES: dict[str, MetricFamily] = {
    family.name: family
    for family in (
        # From PostgreSQL: they survive a restart, and every worker reports the same.
        MetricFamily("viewer_flushes_total", "counter", ("mode", "outcome"), "flushes", "Flushes by outcome"),
        MetricFamily("viewer_views_persisted_total", "counter", ("mode",), "views", "Views in the ledger"),
        MetricFamily(
            "viewer_counters_persisted_total", "counter", ("mode",), "counters", "Counters in the flushes of the ledger"
        ),
        MetricFamily(
            "viewer_last_flush_timestamp_seconds", "gauge", (), "Unix seconds", "When the last flush was committed"
        ),
        MetricFamily("viewer_flush_seconds", "histogram", ("mode",), "seconds", "Duration of transaction and settling"),
        MetricFamily(
            "viewer_drift_views_total",
            "counter",
            ("mode",),
            "views",
            "Views that were missing from counters when they were settled",
        ),
        MetricFamily(
            "viewer_rejected_inputs_total", "counter", ("source", "reason"), "inputs", "Rejected messages and counters"
        ),
        MetricFamily(
            "viewer_open_incidents",
            "gauge",
            ("kind",),
            "incidents",
            "1 for a kind of incident that is not acknowledged",
        ),
        MetricFamily(
            "viewer_held_views", "gauge", (), "views", "Held views, of the first 10 000 VODs: they wait for a decision"
        ),
        # From Redis, now.
        MetricFamily("viewer_pending_counters", "gauge", (), "counters", "VODs in the changed set"),
        MetricFamily(
            "viewer_pending_counters_read",
            "gauge",
            (),
            "counters",
            "VODs of the changed set whose views were read, oldest first",
        ),
        MetricFamily("viewer_pending_views", "gauge", (), "views", "Views on the counters that were read"),
        MetricFamily(
            "viewer_oldest_pending_seconds", "gauge", (), "seconds", "Age of the oldest announced view, 0 for none"
        ),
        # Of this worker, since its start.
        MetricFamily("viewer_messages_total", "counter", ("outcome",), "messages", "Received messages by outcome"),
        MetricFamily(
            "viewer_messages_rejected_total", "counter", ("reason",), "messages", "Rejected messages by reason"
        ),
        MetricFamily("viewer_folds_total", "counter", (), "segments", "Segments folded into Redis"),
        MetricFamily("viewer_folded_views_total", "counter", (), "views", "Views folded into Redis"),
        MetricFamily(
            "viewer_dropped_views_total",
            "counter",
            (),
            "views",
            "Received views that another worker folded, or that were dropped at a stop",
        ),
        MetricFamily(
            "viewer_subscription_losses_total", "counter", ("loss",), "subscriptions", "Lost subscriptions by cause"
        ),
        MetricFamily("viewer_lease_takeovers_total", "counter", (), "takeovers", "How often it acquired the lease"),
        MetricFamily("viewer_lease_held", "gauge", (), "0 or 1", "Whether this worker holds the lease"),
        MetricFamily("viewer_subscriber_state", "gauge", ("state",), "0 or 1", "1 for the current state"),
        MetricFamily("viewer_views_in_memory", "gauge", (), "views", "Received views that are not folded yet"),
        MetricFamily(
            "viewer_last_message_timestamp_seconds", "gauge", (), "Unix seconds", "When it received the last message"
        ),
        # Reachability.
        MetricFamily("viewer_redis_up", "gauge", (), "0 or 1", "Whether Redis answered this scrape in time"),
        MetricFamily("viewer_postgres_up", "gauge", (), "0 or 1", "Whether PostgreSQL answered this scrape in time"),
        MetricFamily(
            "viewer_dagster_up", "gauge", (), "0 or 1", "Whether Dagster's storage answered this scrape in time"
        ),
        MetricFamily(
            "viewer_daemon_up", "gauge", ("daemon",), "0 or 1", "Whether the daemon's heartbeat is younger than 120 s"
        ),
    )
}
