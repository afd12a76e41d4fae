"""docs/metrics.md lists the metrics of the code, and the code has those of the list."""

from __future__ import annotations

import re
from pathlib import Path

from viewer_pipeline.flush.ledger_row_types import HeldSummary
from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.ledger_totals import LedgerReading, LedgerTotals
from viewer_pipeline.monitoring.metric_families import METRIC_FAMILIES
from viewer_pipeline.monitoring.metrics import (
    Samples,
    daemon_up_samples,
    ledger_samples,
    pending_samples,
    worker_samples,
)
from viewer_pipeline.monitoring.pending_views import PendingViews

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(viewer_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return (name, type, labels, unit) of the table's rows, and that each has a meaning."""
    cells = ROW.findall(DOCS.read_text(encoding="utf-8"))
    assert all(re.search(r"\w", meaning) for *_, meaning in cells)
    return [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), unit) for name, kind, labels, unit, _ in cells]


def test_docs_and_code_have_the_same_metrics() -> None:
    """Name, type, labels and unit, in the same order."""
    assert rows() == [(family.name, family.kind, family.labels, family.unit) for family in METRIC_FAMILIES.values()]


def test_no_metric_is_mentioned_that_does_not_exist() -> None:
    """In the text around the table either."""
    mentioned = set(re.findall(r"`(viewer_[a-z_]+)", DOCS.read_text(encoding="utf-8")))
    assert mentioned <= set(METRIC_FAMILIES)


def test_every_metric_has_samples() -> None:
    """No metric is declared without a sample, and no sample comes without a declaration."""
    servers: Samples = {f"viewer_{name}_up": {} for name in ("redis", "postgres", "dagster")}
    reading = LedgerReading(LedgerTotals(), [], [], HeldSummary(0, 0, None, False), [])
    samples = (
        worker_samples(SubscriberStats())
        | pending_samples(PendingViews(0, 0, 0, 0))
        | ledger_samples(reading)
        | daemon_up_samples(None, 0)
        | servers
    )
    assert set(samples) == set(METRIC_FAMILIES)


def test_names_follow_prometheus() -> None:
    """Counters end in _total, nothing else does."""
    for family in METRIC_FAMILIES.values():
        assert family.name.endswith("_total") == (family.kind == "counter")
