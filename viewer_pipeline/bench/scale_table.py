"""What `bench scale` has measured, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from viewer_pipeline.bench.bench_scale import ScaleStats
from viewer_pipeline.bench.result_tables import WIDTH


def print_scale_tables(stats: Sequence[ScaleStats]) -> None:
    """Print times with the ratio to one stream, then what they cost."""
    alone = {(each.counters, each.totals): each.flush for each in stats if each.streams == 1}
    times = _table("flush s", "per second", "one stream / this", "complete s", "runs", title="time")
    seconds = _table("process", "PostgreSQL", "Redis", title="CPU seconds")
    title = "peak memory; bytes for each counter"
    sizes = _table("process MB", "Redis MB", "WAL B", "ledger B", "totals B", title=title)
    for each in stats:
        name = f"{each.counters:,}", str(each.streams), each.totals
        reference = alone.get((each.counters, each.totals))
        times.add_row(
            *name,
            f"{each.flush:.2f}",
            f"{each.counters_per_second:,}",
            f"{reference / each.flush:.2f}" if reference else "",
            f"{each.complete_run:.2f}",
            f"{each.runs:g}",
        )
        cpu = each.process_cpu, each.postgres_cpu, each.redis_cpu
        seconds.add_row(*name, *(f"{value:.1f}" for value in cpu))
        memory = each.process_peak_mb, each.redis_peak_mb
        of_each = each.wal_bytes_per_counter, each.ledger_bytes_per_counter, each.totals_bytes_per_counter
        sizes.add_row(*name, *(f"{value:.0f}" for value in (*memory, *of_each)))
    Console(width=WIDTH).print(times, seconds, sizes)


def _table(*headers: str, title: str) -> Table:
    columns = ("counters", "streams", "totals", *headers)
    return Table(*(Column(name, justify="left" if name == "totals" else "right") for name in columns), title=title)
