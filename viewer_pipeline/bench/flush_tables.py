"""Results of `bench flush` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Column, Table

from viewer_pipeline.bench.flush_stats import FlushStats
from viewer_pipeline.bench.result_tables import WIDTH


def print_flush_tables(sizes: Sequence[FlushStats]) -> None:
    """Print tables with one row for each mode and number of counters."""
    console = Console(width=WIDTH)
    tables = _speed, _references, _steps, _other_steps, _write_ahead_log, _cpu_and_memory, _growth, _impact
    for build in tables:
        console.print(build(sizes))


def _speed(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "flush s", "counters/s", "complete run s",
        title="flush: drain to settled, totals published (medians)",
    )  # fmt: skip
    for stats in sizes:
        seconds = _seconds(stats.flush), _seconds(stats.complete_run)
        table.add_row(_label(stats), seconds[0], f"{stats.counters_per_second:,}", seconds[1])
    return table


def _references(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "COPY + ON CONFLICT s", "/ flush", f"COPY + {sizes[0].merge_statement} s", "/ flush",
        title="the same rows by PostgreSQL alone (medians, also of ratios)",
    )  # fmt: skip
    for stats in sizes:
        upsert = _seconds(stats.upsert_raw), f"{stats.upsert_ratio:.2f}"
        table.add_row(_label(stats), *upsert, _seconds(stats.merge_raw), f"{stats.merge_ratio:.2f}")
    return table


def _steps(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "drain", "aggregate", "bulk upsert", "commit", "settle",
        title="steps of the flush in seconds (medians); commit and settle, side by side, are the bulk upsert",
    )  # fmt: skip
    for stats in sizes:
        steps = stats.steps
        seconds = steps.drain, steps.aggregate, steps.bulk_upsert, steps.commit, steps.settle
        table.add_row(_label(stats), *map(_seconds, seconds))
    return table


def _other_steps(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "runs", "start", "verify", "top VODs", "other",
        title="other steps of the complete run in seconds (medians)",
    )  # fmt: skip
    for stats in sizes:
        steps = stats.steps
        seconds = steps.start, steps.verify, steps.top_vods, steps.other
        table.add_row(_label(stats), f"{stats.processes:.0f}", *map(_seconds, seconds))
    return table


def _write_ahead_log(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "complete run", "ON CONFLICT alone", f"{sizes[0].merge_statement} alone",
        title="write-ahead log: bytes per counter (medians)",
    )  # fmt: skip
    for stats in sizes:
        wal = stats.wal_bytes_per_counter, stats.upsert_wal_bytes_per_counter, stats.merge_wal_bytes_per_counter
        table.add_row(_label(stats), *(f"{value:.0f}" for value in wal))
    return table


def _cpu_and_memory(sizes: Sequence[FlushStats]) -> Table:
    table = _table(
        "CPU s: run's process", "PostgreSQL", "Redis", "peak MB of the process",
        title="cost of the complete run: CPU (medians), memory (highest)",
    )  # fmt: skip
    for stats in sizes:
        cpu = map(_seconds, (stats.process_cpu, stats.postgres_cpu, stats.redis_cpu))
        table.add_row(_label(stats), *cpu, f"{stats.peak_mb:.0f}")
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
