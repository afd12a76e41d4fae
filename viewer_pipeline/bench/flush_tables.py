"""Results of `bench flush` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Column, Table

from viewer_pipeline.bench.complete_run import StepSeconds
from viewer_pipeline.bench.flush_stats import FlushStats
from viewer_pipeline.bench.result_tables import WIDTH


def print_flush_tables(sizes: Sequence[FlushStats]) -> None:
    """Print tables with one row for each mode and number of counters."""
    console = Console(width=WIDTH)
    for table in (_speed(sizes), _steps(sizes), _costs(sizes), _growth(sizes), _impact(sizes)):
        console.print(table)


def _speed(sizes: Sequence[FlushStats]) -> Table:
    merge = f"COPY + {sizes[0].merge_statement}"
    table = _table(
        "flush s", "counters/s", "complete run s", "COPY + ON CONFLICT s", "/ flush",
        f"{merge} s", "/ flush",
        title="flush: drain to settled, totals published; the same rows by PostgreSQL alone; medians, also of ratios",
    )  # fmt: skip
    for stats in sizes:
        table.add_row(
            _label(stats), _seconds(stats.flush), f"{stats.counters_per_second:,}", _seconds(stats.complete_run),
            _seconds(stats.upsert_raw), f"{stats.upsert_ratio:.2f}",
            _seconds(stats.merge_raw), f"{stats.merge_ratio:.2f}",
        )  # fmt: skip
    return table


def _steps(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "runs", "start", "drain", "aggregate", "bulk upsert", "commit", "settle", "verify", "top VODs", "other",
        title="steps of the complete run in seconds (medians); commit and settle, side by side, are the bulk upsert",
    )  # fmt: skip
    for stats in sizes:
        table.add_row(_label(stats), f"{stats.processes:.0f}", *_step_cells(stats.steps))
    return table


def _step_cells(steps: StepSeconds) -> list[str]:
    bulk_upsert = steps.bulk_upsert, steps.commit, steps.settle
    return [
        _seconds(value)
        for value in (
            steps.start,
            steps.drain,
            steps.aggregate,
            *bulk_upsert,
            steps.verify,
            steps.top_vods,
            steps.other,
        )
    ]


def _costs(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "WAL bytes per counter", "ON CONFLICT alone", f"{sizes[0].merge_statement} alone",
        "CPU s: run's process", "PostgreSQL", "Redis", "peak MB of the process",
        title="cost of the complete run: write-ahead log and CPU (medians), memory (highest)",
    )  # fmt: skip
    for stats in sizes:
        wal = stats.wal_bytes_per_counter, stats.upsert_wal_bytes_per_counter, stats.merge_wal_bytes_per_counter
        table.add_row(
            _label(stats), *(f"{value:.0f}" for value in wal),
            *map(_seconds, (stats.process_cpu, stats.postgres_cpu, stats.redis_cpu)), f"{stats.peak_mb:.0f}",
        )  # fmt: skip
    return table


def _growth(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "complete run, µs per counter", "ledger bytes per counter of a flush",
        "totals bytes per VOD", "peak MB per 1,000,000 counters more than above",
        title="growth with the number of counters",
    )  # fmt: skip
    more_mb = [""] + [
        f"{(later.peak_mb - earlier.peak_mb) / (later.counters - earlier.counters) * 1e6:.0f}"
        if later.mode == earlier.mode and later.counters > earlier.counters
        else ""
        for earlier, later in pairwise(sizes)
    ]
    for stats, mb in zip(sizes, more_mb, strict=True):
        table.add_row(
            _label(stats), f"{stats.complete_run / stats.counters * 1e6:.1f}",
            f"{stats.ledger_bytes_per_counter:.0f}", f"{stats.totals_bytes_per_counter:.0f}", mb,
        )  # fmt: skip
    return table


def _impact(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "row locked s", "counted twice s", "a settling script holds Redis, ms: median", "99 %",
        "longest", title="impact on other clients: the longest duration in a flush (medians over flushes)",
    )  # fmt: skip
    for stats in sizes:
        times = stats.locks_and_double_counts
        table.add_row(
            _label(stats), f"{times.row_lock_seconds:.3f}", f"{times.double_count_seconds:.3f}",
            f"{times.script_p50_ms:.3f}", f"{times.script_p99_ms:.2f}", f"{times.script_max_ms:.1f}",
        )  # fmt: skip
    return table


def _table(*headings: str, title: str) -> Table:
    numbers = (Column(heading, justify="right") for heading in headings)
    return Table(Column("mode, counters", no_wrap=True), *numbers, title=title)


def _label(stats: FlushStats) -> str:
    return f"{stats.mode} {stats.counters:,}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
