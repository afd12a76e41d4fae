"""The parts of the status page that need no server: bars, grouped checks, the history of pending views."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import pytest

from viewer_pipeline.checks import CheckResult, Status
from viewer_pipeline.flush.ledger_row_types import RecentFlush
from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name
from viewer_pipeline.monitoring.status_page.bar_chart import Bar, BarChart, format_number
from viewer_pipeline.monitoring.status_page.buckets import BUCKET_SECONDS, BUCKETS, bucket_of
from viewer_pipeline.monitoring.status_page.charts import MIN_BARS, flushes_chart
from viewer_pipeline.monitoring.status_page.grouped_checks import ALL_DAEMONS, group_checks
from viewer_pipeline.monitoring.status_page.oldest_pending import OldestPendingHistory
from viewer_pipeline.monitoring.status_page.rendering import _render_prose


def test_bars_are_scaled_to_the_highest() -> None:
    """A bar for each value that is known and not zero; its tooltip is escaped."""
    bars = [Bar(50, "a <b>"), Bar(None, "b"), Bar(0, "c"), Bar(25, "d")]
    chart = BarChart("Views", "note", "views", bars, "then", "now", "No views.")
    assert chart.svg() == (
        '<svg role="img" aria-label="Views: highest a &lt;b&gt;: 50 views; last d: 25 views" viewBox="0 0 4 100"'
        ' preserveAspectRatio="none">'
        '<rect x="0.1" width=".8" y="0.0" height="100.0"><title>a &lt;b&gt;: 50 views</title></rect>'
        '<rect x="3.1" width=".8" y="50.0" height="50.0"><title>d: 25 views</title></rect></svg>'
    )
    assert chart.peak_text == "50 views"
    assert not chart.is_empty


def test_chart_without_values() -> None:
    """Its text alternative tells that."""
    lag = BarChart("Lag", "", "s", [Bar(None, "a"), Bar(0.0, "b")], "", "", "Not measured yet.")
    assert (lag.summary, lag.is_empty) == ("Lag: Not measured yet.", True)
    assert "Flushes: No flush yet." in BarChart("Flushes", "", "s", [], "", "", "No flush yet.").svg()


def test_few_flushes_are_narrow_bars() -> None:
    """At the right of the chart; its left end has no label then."""
    now = datetime.now(UTC)
    flush = RecentFlush(1234, "changed", now, now + timedelta(seconds=2), 1, 5000, 1, "run")
    chart = flushes_chart([flush])
    assert (len(chart.bars), chart.first, chart.last) == (MIN_BARS, "", "flush 1,234")
    assert chart.summary == (
        "Seconds to commit of the last flushes: highest flush 1,234, 5,000 views: 2 s;"
        " last flush 1,234, 5,000 views: 2 s"
    )
    full = flushes_chart([flush] * MIN_BARS)
    assert (len(full.bars), full.first, flushes_chart([]).is_empty) == (MIN_BARS, "flush 1,234", True)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234567, "1,234,567"), (0.456, "0.46"), (9.5, "9.5"), (10.4, "10"), (2.0, "2")]
)
def test_numbers(value: float, text: str) -> None:
    """Thousands have separators; small numbers two decimals."""
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("run `viewer-pipeline up`, or `x`", "run <code>viewer-pipeline up</code>, or <code>x</code>"),
        ("`<b>` & ` redis://:pw@host", "<code>&lt;b&gt;</code> &amp; ` redis://:***@host"),
        ("a\u202eb\n", "a\\u202eb\\n"),
    ],
)
def test_prose(text: str, html: str) -> None:
    """What is in backticks is code; everything is escaped, and passwords are masked."""
    assert str(_render_prose(text)) == html


def daemons(status: Status = "healthy") -> list[CheckResult]:
    """Return the checks of the daemons, each with a message of its own; the last one has this status."""
    last = len(DAEMONS) - 1
    return [
        CheckResult(daemon_check_name(name), status if number == last else "healthy", f"{number} s ago")
        for number, name in enumerate(DAEMONS)
    ]


def test_checks_with_one_result_are_one_group() -> None:
    """Worst first; skip reasons and runs stay with their check."""
    groups = group_checks(
        [
            CheckResult("redis", "healthy", "answers"),
            CheckResult("marker", "unknown", "not checked"),
            CheckResult("sensor", "healthy", "runs", {"skip_reason": "nothing"}),
            CheckResult("unsettled", "unknown", "not checked"),
            CheckResult("flush_runs", "unhealthy", "failed", {"last_run": "r1"}, "look"),
        ]
    )
    assert [(group.names, group.status, group.message, group.run_ids, group.is_problem) for group in groups] == [
        (["flush_runs"], "unhealthy", "failed", ["r1"], True),
        (["marker", "unsettled"], "unknown", "not checked", [], False),
        (["redis"], "healthy", "answers", [], False),
        (["sensor"], "healthy", "runs; skipped: nothing", [], False),
    ]


def test_daemons_are_one_line_while_all_run() -> None:
    """Or all report the same; else each has its own, so that the one that failed is seen."""
    assert [(group.names, group.message) for group in group_checks(daemons())] == [(["daemons"], ALL_DAEMONS)]
    assert len(group_checks(daemons("degraded"))) == len(DAEMONS)
    dead = [replace(result, message="no heartbeat", remedy="start") for result in daemons("unhealthy")]
    dead = [replace(result, status="degraded") if result.passed else result for result in dead]
    (group,) = group_checks(dead)
    assert group == (["daemons"], "unhealthy", "no heartbeat", "start", [])


def freshness(seconds: float | None) -> list[CheckResult]:
    """Return the check with an age."""
    return [CheckResult("freshness", "healthy", "", {"oldest_pending_seconds": seconds})]


def test_history_keeps_the_highest_age_of_each_bucket() -> None:
    """Buckets that are too old are dropped; where Redis did not answer, nothing is known."""
    history, now = OldestPendingHistory(), time.time()
    for ago, results in (
        (BUCKETS * BUCKET_SECONDS, freshness(99)),
        (2 * BUCKET_SECONDS, freshness(5)),
        (2 * BUCKET_SECONDS, freshness(3)),
        (BUCKET_SECONDS, [CheckResult("freshness", "unknown", "not checked")]),
        (0, freshness(None)),
    ):
        with patch("time.time", lambda ago=ago: now - ago):
            history.add(results)
    assert history.seconds_by_bucket == {bucket_of(now) - 2: 5, bucket_of(now): 0}
