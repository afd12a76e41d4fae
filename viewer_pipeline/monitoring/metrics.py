"""Samples for Prometheus, read at each scrape: of the ledger, of Redis, of Dagster, and of this worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from viewer_pipeline.flush.incidents import KINDS
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.run_metrics import BOUNDS, RunMetric
from viewer_pipeline.ingest.subscriber_stats import State, SubscriberStats
from viewer_pipeline.monitoring.bounded_probe import BoundedProbe
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, dead_daemons
from viewer_pipeline.monitoring.dagster_tables import DagsterReading, read_dagster
from viewer_pipeline.monitoring.ledger_totals import LedgerReading, LedgerTotalsReader
from viewer_pipeline.monitoring.metric_families import METRIC_FAMILIES, MetricFamily
from viewer_pipeline.monitoring.pending_views import PendingViews, read_pending_views
from viewer_pipeline.settings import Settings

SCRAPE_SECONDS = 0.8

Sample = float | RunMetric  # a histogram is made of the latter
Values = dict[tuple[str, ...], Sample]  # values of the labels -> sample
Samples = dict[str, Values]  # by the name of the metric


class PrometheusMetrics(Collector):
    """Reads all servers side by side at each scrape. What is not read in time is left out, and its `_up` is 0."""

    def __init__(self, settings: Settings, stats: SubscriberStats, store: RedisStore) -> None:
        """`store`: that of the probes, which test writes, so it leaves a server that was demoted."""
        self._stats = stats
        ledger = LedgerTotalsReader(Ledger.of(settings))
        self._probes: dict[str, BoundedProbe[Samples]] = {
            "redis": BoundedProbe("metrics of redis", lambda: pending_samples(read_pending_views(store))),
            "postgres": BoundedProbe("metrics of postgres", lambda: ledger_samples(ledger.read())),
            "dagster": BoundedProbe(
                "metrics of dagster", lambda: daemon_up_samples(read_dagster(settings), time.time())
            ),
        }
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render_text(self) -> bytes:
        """Return all in Prometheus' text format, within SCRAPE_SECONDS."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families that could be read."""
        samples = worker_samples(self._stats)
        for probe in self._probes.values():
            probe.start_if_due()
        for name, probe in self._probes.items():
            result = probe.wait_for_result(SCRAPE_SECONDS)
            samples[f"viewer_{name}_up"] = {(): float(result.value is not None)}
            samples |= result.value or {}
        for name, values in samples.items():
            yield _build_family(METRIC_FAMILIES[name], values)


def worker_samples(stats: SubscriberStats) -> Samples:
    """Return the samples of this worker, since its start."""
    rejected, losses = dict(stats.rejected), dict(stats.losses)
    last_message: Values = {} if stats.last_message is None else {(): stats.last_message}
    return {
        "viewer_messages_total": {("accepted",): stats.accepted, ("rejected",): sum(rejected.values())},
        "viewer_messages_rejected_total": {(reason,): count for reason, count in rejected.items()},
        "viewer_folds_total": {(): stats.folded},
        "viewer_folded_views_total": {(): stats.folded_views},
        "viewer_dropped_views_total": {(): stats.dropped_views},
        "viewer_subscription_losses_total": {(loss,): count for loss, count in losses.items()},
        "viewer_lease_takeovers_total": {(): stats.takeovers},
        "viewer_lease_held": {(): float(stats.holds_lease)},
        "viewer_subscriber_state": {(state,): float(state == stats.state) for state in get_args(State)},
        "viewer_views_in_memory": {(): stats.in_memory},
        "viewer_last_message_timestamp_seconds": last_message,
    }


def pending_samples(pending: PendingViews) -> Samples:
    """Return the samples of what is pending."""
    return {
        "viewer_pending_counters": {(): pending.vods},
        "viewer_pending_counters_read": {(): pending.read},
        "viewer_pending_views": {(): pending.views},
        "viewer_oldest_pending_seconds": {(): pending.age},
    }


def ledger_samples(reading: LedgerReading) -> Samples:
    """Return the samples of what was persisted and rejected. Commits are those of the ledger, even if a run died."""
    ended: Values = {
        (metric.mode, metric.outcome): metric.count for metric in reading.recorded if metric.outcome != "committed"
    }
    committed = [metric for metric in reading.recorded if metric.outcome == "committed"]
    totals = reading.totals
    last: Values = {} if totals.last_flush_at is None else {(): totals.last_flush_at}
    return {
        "viewer_flushes_total": ended | {(mode, "committed"): count for mode, count in totals.flushes.items()},
        "viewer_views_persisted_total": {(mode,): views for mode, views in totals.views.items()},
        "viewer_counters_persisted_total": {(mode,): count for mode, count in totals.counters.items()},
        "viewer_last_flush_timestamp_seconds": last,
        "viewer_flush_seconds": {(metric.mode,): metric for metric in committed},
        "viewer_drift_views_total": {(metric.mode,): metric.drift for metric in committed},
        "viewer_rejected_inputs_total": {(row.source, row.reason): row.inputs for row in reading.rejected},
        "viewer_held_views": {(): reading.held.views},
        "viewer_open_incidents": {(kind,): float(kind in reading.incidents) for kind in KINDS},
    }


def daemon_up_samples(reading: DagsterReading | None, now: float) -> Samples:
    """Return the samples of the daemons; all 0 where Dagster has never run."""
    dead = dead_daemons(reading.heartbeats if reading else {}, now)
    return {"viewer_daemon_up": {(daemon,): float(daemon not in dead) for daemon in DAEMONS}}


def _build_family(family: MetricFamily, values: Values) -> Metric:
    if family.kind == "histogram":
        return _build_histogram(family, values)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        assert not isinstance(value, RunMetric), f"{family.name} is no histogram"
        metric.add_metric(labels, value)
    return metric


def _build_histogram(family: MetricFamily, values: Values) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        assert isinstance(value, RunMetric), f"{family.name} is a histogram"
        bounds = (*map(str, BOUNDS), "+Inf")
        metric.add_metric(labels, list(zip(bounds, accumulate(value.buckets), strict=True)), value.seconds)
    return metric
