"""Results of benchmarks as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from viewer_pipeline.bench.bench_messages import MessageStats
from viewer_pipeline.bench.bench_reconcile import ReconcileStats
from viewer_pipeline.bench.bench_target import TargetStats
from viewer_pipeline.bench.bench_unrelated_keys import UnrelatedKeysStats
from viewer_pipeline.bench.run_costs import RunStats

WIDTH = 80  # columns: a usual terminal, and no cell of the largest numbers is broken
RUN_COSTS = {  # field -> label, decimals
    "runs": ("runs of an `up` with a view each second", 0),
    "cpu_seconds_per_run": ("CPU s per run, above idle", 2),
    "tick_to_success_p50": ("tick to success s, p50", 2),
    "tick_to_success_p95": ("tick to success s, p95", 2),
    "publish_to_persisted_p50": ("publish to persisted s, p50", 2),
    "publish_to_persisted_p95": ("publish to persisted s, p95", 2),
    "idle_cores": ("cores, idle", 3),
    "busy_cores": ("cores, with a view each second", 3),
    "sessions_per_run": ("PostgreSQL sessions per run, above idle", 1),
    "sessions_per_idle_second": ("PostgreSQL sessions per idle second", 1),
    "pss_mb": ("PSS of all processes MB, idle", 0),
    "worker_pss_mb": ("PSS of the worker MB, idle", 0),
    "start_cpu_seconds": ("CPU s to start `up`", 1),
    "start_to_first_flush_seconds": ("start of `up` to first flush s", 1),
}


def print_target_table(stats: TargetStats) -> None:
    """Print the flush, its reference, and how long an editor of the table waits."""
    table = _table(
        "rows", "counters", "flush s", "counters/s", "raw s", "raw / flush",
        title="flush into a wide table of the user's, beside COPY and one sorted UPDATE of the same rows (medians)",
    )  # fmt: skip
    table.add_row(
        f"{stats.rows:,}", f"{stats.counters:,}", f"{stats.flush:.2f}", f"{stats.counters_per_second:,}",
        f"{stats.raw:.2f}", f"{stats.ratio:.2f}",
    )  # fmt: skip
    waits = _table("median s", "longest s", title="how long an edit of the table waits meanwhile")
    waits.add_row(f"{stats.editor_wait:.3f}", f"{stats.editor_wait_max:.3f}")
    Console(width=WIDTH).print(table, waits)


def print_unrelated_keys_table(stats: UnrelatedKeysStats) -> None:
    """Print both times and their ratio, then the sensor's scan."""
    table = _table(
        "changed counters",
        "alone s",
        f"beside {stats.unrelated_keys:,} keys s",
        "ratio",
        title="flush of the changed set (medians)",
    )
    table.add_row(f"{stats.counters:,}", f"{stats.alone:.4f}", f"{stats.with_unrelated_keys:.4f}", f"{stats.ratio:.2f}")
    scan = stats.scan
    scans = _table(
        "a SCAN call holds Redis, ms: median", "99 %", "longest", "keys of a tick", "percent of Redis' time",
        title=f"scan of the sensor beside {stats.unrelated_keys:,} keys, BATCH_INTERVAL_MS=5000",
    )  # fmt: skip
    scans.add_row(
        f"{scan.median_ms:.2f}", f"{scan.p99_ms:.2f}", f"{scan.max_ms:.2f}",
        f"{scan.keys_of_tick:,}", f"{scan.percent_of_redis:.2f}",
    )  # fmt: skip
    Console(width=WIDTH).print(table)
    Console(width=WIDTH).print(scans)


def print_messages_table(stats: MessageStats) -> None:
    """Print the rates of the subscriber and of the plain loop."""
    table = _table(
        "messages", "", "per second", "per CPU second (one core)", "peak MB",
        title="messages through a real Redis; publisher and Redis use the same machine (medians)",
    )  # fmt: skip
    table.add_row(
        f"{stats.messages:,}", "subscriber: received, checked, folded",
        f"{stats.per_second:,.0f}", f"{stats.per_cpu_second:,.0f}",
        f"{stats.peak_mb:.0f}",
    )  # fmt: skip
    table.add_row(
        "",
        "plain loop: get_message, json.loads",
        f"{stats.plain_per_second:,.0f}",
        f"{stats.plain_per_cpu_second:,.0f}",
        "",
    )
    Console(width=WIDTH).print(table)


def print_reconcile_table(stats: ReconcileStats) -> None:
    """Print the durations of a comparison, of a repair and of a baseline."""
    table = _table(
        "totals", "compare s", "totals/s", "compare and repair s", "repaired", "peak MB",
        title="reconcile: totals and a target against a ledger of as many entries (one run)",
    )  # fmt: skip
    table.add_row(
        f"{stats.totals:,}", f"{stats.compare:.1f}", f"{stats.totals / stats.compare:,.0f}", f"{stats.repair:.1f}",
        f"{stats.falsified:,}", f"{stats.peak_mb:.0f}",
    )  # fmt: skip
    others = _table("totals", "baseline s", "plain read s", title="a baseline of them, and a plain read (one run)")
    others.add_row(f"{stats.totals:,}", f"{stats.baseline:.1f}", f"{stats.raw:.2f}")
    Console(width=WIDTH).print(table, others)


def print_runs_table(stats: RunStats) -> None:
    """Print each cost of spawned and of warm runs, and the goal of warm runs where there is one."""
    table = _table(
        "", "spawned", "warm", "goal ≤", "",
        title=f"runs at BATCH_INTERVAL_MS={stats.interval_ms}, all processes of `up` (medians; rounds: {stats.rounds})",
    )  # fmt: skip

    def add_row(name: str, label: str, decimals: int, *values: float | None) -> None:
        cells = ["" if value is None else f"{value:.{decimals}f}" for value in (*values, stats.goals.get(name))]
        met = ("missed" if name in stats.missed_goals else "met") if name in stats.goals else ""
        table.add_row(label, *cells, met)

    for name, (label, decimals) in RUN_COSTS.items():
        add_row(name, label, decimals, getattr(stats.spawned, name), getattr(stats.warm, name))
    add_row("cpu_ratio", "CPU of a warm run / of a spawned run", 3, None, stats.cpu_ratio)
    Console(width=WIDTH).print(table)


def _table(*headings: str, title: str) -> Table:
    """Return a table of numbers, but for columns without a heading."""
    return Table(*(Column(heading, justify="right" if heading else "left") for heading in headings), title=title)
