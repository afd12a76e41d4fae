"""The charts of the status page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from viewer_pipeline.flush.ledger_row_types import RecentFlush
from viewer_pipeline.monitoring.status_page.bar_chart import Bar, BarChart, count_noun, format_flush_number
from viewer_pipeline.monitoring.status_page.buckets import BUCKET_SECONDS, BUCKETS, last_buckets

if TYPE_CHECKING:
    from viewer_pipeline.monitoring.status_page.page import StatusReading

NO_FLUSH = "No flush yet."
MIN_BARS = 20
HOURS = BUCKETS * BUCKET_SECONDS // 3600


def build_charts(reading: StatusReading, now: datetime) -> list[BarChart]:
    """Return the charts of what could be read, with times in the zone of `now`."""
    charts = [_oldest_pending_chart(reading.oldest_pending_by_bucket, now)]
    if stored := reading.postgres.value:
        charts.insert(0, _views_chart(stored.views_by_bucket, now, has_flushes=bool(stored.flushes)))
        charts.append(flushes_chart(stored.flushes))
    return charts


def _views_chart(views: Mapping[int, int], now: datetime, *, has_flushes: bool) -> BarChart:
    rates = {bucket: count * 60 / BUCKET_SECONDS for bucket, count in views.items()}
    note = "persisted, by the time at which their counters were read; mean of 2 minutes, the last ones not complete"
    empty = f"No views within the last {HOURS} hours." if has_flushes else NO_FLUSH
    return _chart_of_hours("Views per minute", note, "per minute", rates, now, empty=empty)


def _oldest_pending_chart(seconds: Mapping[int, float], now: datetime) -> BarChart:
    note = "age of the oldest pending view; highest of 2 minutes"
    empty = "No view was pending at any measurement." if seconds else "Not measured yet."
    return _chart_of_hours("Lag", note, "s", seconds, now, empty=empty)


def _chart_of_hours(
    title: str, note: str, unit: str, values: Mapping[int, float], now: datetime, *, empty: str
) -> BarChart:
    buckets = last_buckets(now.timestamp())
    edges = [datetime.fromtimestamp(bucket * BUCKET_SECONDS, now.tzinfo) for bucket in (*buckets, buckets[-1] + 1)]
    bars = [
        Bar(values.get(bucket), f"{start:%H:%M} to {end:%H:%M %Z}")
        for bucket, (start, end) in zip(buckets, pairwise(edges), strict=True)
    ]
    return BarChart(title, note, unit, bars, f"{edges[0]:%H:%M %Z}", "now", empty)


def flushes_chart(flushes: list[RecentFlush]) -> BarChart:
    """Return the chart of the seconds of flushes; `flushes`: newest first."""
    bars = [
        Bar(
            (flush.committed_at - flush.taken_at).total_seconds(),
            f"flush {format_flush_number(flush.seq)}, {count_noun(int(flush.views), 'view')}",
        )
        for flush in reversed(flushes)
    ]
    first, last = (f"flush {format_flush_number(flushes[at].seq)}" if flushes else "" for at in (-1, 0))
    if len(bars) < MIN_BARS:  # else one flush would be a bar as wide as the chart
        bars, first = [Bar(None, "")] * (MIN_BARS - len(bars)) + bars, ""
    note = "from reading the counters to the commit, with the time of Dagster between the steps"
    return BarChart("Seconds to commit of the last flushes", note, "s", bars, first, last, NO_FLUSH)
