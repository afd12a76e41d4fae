"""Figures as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from viewer_pipeline.bench.changed import ChangedFigures
from viewer_pipeline.bench.flush import FlushFigures
from viewer_pipeline.bench.messages import MessageFigures
from viewer_pipeline.bench.reconcile import ReconcileFigures
from viewer_pipeline.bench.target import TargetFigures

WIDTH = 118


def show_flush(all_figures: list[FlushFigures]) -> None:
    """Print one row for each size."""
    console = Console(width=WIDTH)
    table = Table(
        "counters", "flush s", "counters/s", "raw s", "raw / flush",
        "drain", "aggregate", "upsert", "settle", "peak MB",
        title="flush, drain to settled, beside the same rows by PostgreSQL alone (medians)",
    )  # fmt: skip
    for f in all_figures:
        seconds = [f"{value:.2f}" for value in (f.drain, f.aggregate, f.upsert, f.settle)]
        table.add_row(
            f"{f.counters:,}", f"{f.flush:.2f}", f"{f.counters_per_second:,}", f"{f.raw:.2f}", f"{f.ratio:.2f}",
            *seconds, f"{f.peak_mb:.0f}",
        )  # fmt: skip
    console.print(table)
    first = all_figures[0]
    for f in all_figures[1:]:
        rate = f.counters_per_second / first.counters_per_second
        console.print(f"rate at {f.counters:,} counters: {rate:.2f} of that at {first.counters:,}")
    table = Table("counters", "row locked s", "shown twice s", "script ms (median)", "script ms (longest)",
                  title="what others feel of it: longest in a flush, median of three flushes")  # fmt: skip
    for f in all_figures:
        w = f.watched
        table.add_row(
            f"{f.counters:,}", f"{w.locked:.3f}", f"{w.doubled:.3f}", f"{w.script_ms:.2f}", f"{w.script_max_ms:.1f}"
        )
    console.print(table)


def show_target(f: TargetFigures) -> None:
    """Print the flush, its reference, and what an editor of the table feels."""
    table = Table(
        "rows", "counters", "flush s", "counters/s", "raw s", "raw / flush", "an edit waits s (median, longest)",
        title="flush into a wide table of the user's, beside COPY and one sorted UPDATE of the same rows (medians)",
    )  # fmt: skip
    table.add_row(
        f"{f.rows:,}", f"{f.counters:,}", f"{f.flush:.2f}", f"{f.counters_per_second:,}", f"{f.raw:.2f}",
        f"{f.ratio:.2f}", f"{f.editor_wait:.3f}, {f.editor_wait_max:.3f}",
    )  # fmt: skip
    Console(width=WIDTH).print(table)


def show_changed(f: ChangedFigures) -> None:
    """Print both times and their ratio."""
    table = Table(
        "changed counters",
        "alone s",
        f"beside {f.other_keys:,} keys s",
        "ratio",
        title="flush of the changed set (medians)",
    )
    table.add_row(f"{f.counters:,}", f"{f.alone:.4f}", f"{f.beside:.4f}", f"{f.ratio:.2f}")
    Console(width=WIDTH).print(table)


def show_messages(f: MessageFigures) -> None:
    """Print the rates of the subscriber and of the plain loop."""
    table = Table(
        "messages", "", "a second", "a CPU second (one core)", "peak MB",
        title="messages through a real Redis; publisher and Redis share the machine (medians)",
    )  # fmt: skip
    table.add_row(
        f"{f.messages:,}", "subscriber: heard, checked, folded", f"{f.per_second:,.0f}", f"{f.per_cpu_second:,.0f}",
        f"{f.peak_mb:.0f}",
    )  # fmt: skip
    table.add_row(
        "", "plain loop: get_message, json.loads", f"{f.plain_per_second:,.0f}", f"{f.plain_per_cpu_second:,.0f}", ""
    )
    Console(width=WIDTH).print(table)


def show_reconcile(f: ReconcileFigures) -> None:
    """Print how long comparing, mending and a baseline take."""
    table = Table(
        "totals", "compare s", "totals/s", "compare and mend s", "mended", "baseline s", "plain read s", "peak MB",
        title="reconcile: totals and a target against a ledger of as many entries (one run)",
    )  # fmt: skip
    table.add_row(
        f"{f.totals:,}", f"{f.compare:.1f}", f"{f.totals / f.compare:,.0f}", f"{f.repair:.1f}", f"{f.spoiled:,}",
        f"{f.baseline:.1f}", f"{f.raw:.2f}", f"{f.peak_mb:.0f}",
    )  # fmt: skip
    Console(width=WIDTH).print(table)
