"""The commands `bench …`: measurements on embedded servers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from viewer_pipeline.cli.demo_and_soak_setup import configure_logging_and_sigterm
from viewer_pipeline.cli.option_types import Number, Seconds
from viewer_pipeline.cli.output import echo_progress, echo_result, json_option
from viewer_pipeline.flush.flush_request import FlushRequest, Mode
from viewer_pipeline.settings import load_settings
from viewer_pipeline.streams import MAX_PARTS

if TYPE_CHECKING:  # imports pandas
    from viewer_pipeline.bench.flush_stats import FlushStats

FLUSH_SIZES: dict[Mode, tuple[int, ...]] = {"sweep": (100, 10_000, 100_000, 1_000_000), "changed": (100, 10_000)}

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def bench() -> None:
    """Measure on embedded servers, beside a reference."""


def bench_options(command: F) -> F:
    """Add the options of every benchmark."""
    count = Number(1, 100)
    runs = click.option("--runs", default=5, show_default=True, type=count, help="Number of runs; prints medians.")
    return runs(json_option(command))


def _describe_flush_sizes() -> str:
    return "; ".join(f"{mode} {', '.join(map(str, sizes))}" for mode, sizes in FLUSH_SIZES.items())


def _bench_flushes(sizes: dict[Mode, tuple[int, ...]], runs: int, *, keep_process: bool = False) -> list[FlushStats]:
    from viewer_pipeline.bench.bench_flush import bench_flush

    return [
        bench_flush(_request(mode), counters, runs=runs, keep_process=keep_process)
        for mode in sizes
        for counters in sizes[mode]
    ]


def _request(mode: Mode = "sweep", **changes: str) -> FlushRequest:
    settings = load_settings().copy_unvalidated(**changes)
    return FlushRequest(
        "bench",
        mode,
        batch_size=settings.batch_size,
        flush_max_counters=settings.max_counters_per_flush,
        run_max_counters=settings.run_max_counters,
    )


@bench.command()
@click.option(
    "--mode",
    "modes",
    default=list(FLUSH_SIZES),
    multiple=True,
    show_default=True,
    type=click.Choice(list(FLUSH_SIZES)),
    help="sweep: all counters; changed: announced ones, among 100000 other VODs and as many unrelated keys.",
)
@click.option(
    "--counters",
    "sizes",
    multiple=True,
    type=Number(1, 10_000_000),
    help=f"Number of counters; give it again for more sizes.  [default: {_describe_flush_sizes()}]",
)
@click.option("--keep-process", is_flag=True, help="Measure runs in one process, instead of a new one for each.")
@bench_options
def flush(modes: tuple[Mode, ...], sizes: tuple[int, ...], keep_process: bool, runs: int, as_json: bool) -> None:
    """Time flushes, beside the same rows by PostgreSQL alone.

    Complete runs as well. From 1000000 counters on, two runs are enough.
    """
    from viewer_pipeline.bench import flush_tables

    chosen = {mode: sizes or FLUSH_SIZES[mode] for mode in modes}
    stats = _bench_flushes(chosen, runs, keep_process=keep_process)
    echo_result({"flush": stats}, partial(flush_tables.print_flush_tables, stats), as_json=as_json)


@bench.command()
@click.option("--rows", default=1_000_000, show_default=True, type=Number(1), help="Rows of the table.")
@click.option("--counters", default=100_000, show_default=True, type=Number(1), help="Counters of a flush.")
@bench_options
def target(rows: int, counters: int, runs: int, as_json: bool) -> None:
    """Time a flush into a wide table of the user's.

    Beside one UPDATE of the same rows, and the wait of an editor of the table.
    """
    from viewer_pipeline.bench import bench_target, result_tables

    if counters > rows:
        raise click.UsageError(f"--counters {counters}: expected at most --rows, which is {rows}")
    stats = bench_target.bench_target(_request(target_table="bench"), rows, counters, runs=runs)
    echo_result(stats, partial(result_tables.print_target_table, stats), as_json=as_json)


@bench.command()
@click.option("--counters", default=1_000, show_default=True, type=Number(1), help="Counters of a flush.")
@click.option("--others", default=1_000_000, show_default=True, type=Number(0), help="Unrelated keys.")
@bench_options
def changed(counters: int, others: int, runs: int, as_json: bool) -> None:
    """Time a flush of the changed set beside unrelated keys.

    Also without them, and the scan of the sensor over those keys.
    """
    from viewer_pipeline.bench import bench_unrelated_keys, result_tables

    stats = bench_unrelated_keys.bench_unrelated_keys(counters, others, runs=runs)
    echo_result(stats, partial(result_tables.print_unrelated_keys_table, stats), as_json=as_json)


@bench.command()
@click.option(
    "--totals", default=1_000_000, show_default=True, type=Number(10_000, 90_000_000), help="Totals to compare."
)
@json_option
def reconcile(totals: int, as_json: bool) -> None:
    """Time a comparison of totals, target and ledger.

    Also a repair and a baseline, beside a plain read.
    """
    from viewer_pipeline.bench import bench_reconcile, result_tables

    stats = bench_reconcile.bench_reconcile(totals // 10_000 * 10_000)
    echo_result(stats, partial(result_tables.print_reconcile_table, stats), as_json=as_json)


@bench.command()
@click.option("--messages", default=500_000, show_default=True, type=Number(1), help="Messages to publish.")
@bench_options
def messages(messages: int, runs: int, as_json: bool) -> None:
    """Time the subscriber, beside a plain redis-py loop.

    On messages through a real Redis.
    """
    from viewer_pipeline.bench import bench_messages, result_tables

    stats = bench_messages.bench_messages(messages, runs=runs)
    echo_result(stats, partial(result_tables.print_messages_table, stats), as_json=as_json)


@bench.command()
@click.option("--rounds", default=2, show_default=True, type=Number(1, 100), help="Number of rounds; prints medians.")
@click.option("--seconds", default=40.0, show_default=True, type=Seconds(1), help="Duration of the part with views.")
@click.option(
    "--idle-seconds",
    default=12.0,
    show_default=True,
    type=Seconds(1),
    help="Duration of the warm-up, and of the part without views.",
)
@click.option(
    "--interval-ms",
    default=5000,
    show_default=True,
    type=click.IntRange(5000, 60_000),
    metavar="MILLISECONDS",
    help="BATCH_INTERVAL_MS.",
)
@json_option
def runs(rounds: int, seconds: float, idle_seconds: float, interval_ms: int, as_json: bool) -> None:
    """Measure CPU, delay and memory of `up`.

    With spawned runs and with warm runs in turn, beside the goals. Each round starts `up` with WARM_RUNS=false, where
    each run is a new Python process, then with WARM_RUNS=true. Linux only.
    """
    from viewer_pipeline.bench import bench_runs, result_tables

    configure_logging_and_sigterm(logging.CRITICAL)
    stats = bench_runs.bench_runs(
        rounds=rounds, seconds=seconds, idle_seconds=idle_seconds, interval_ms=interval_ms, on_progress=echo_progress
    )
    echo_result(stats, partial(result_tables.print_runs_table, stats), as_json=as_json)


def _require_assignments(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"[a-z_.]+=.+", value):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, such as shared_buffers=4GB")
    return values


@bench.command()
@click.option(
    "--counters",
    "sizes",
    default=(100_000, 1_000_000),
    multiple=True,
    show_default=True,
    type=Number(1, 100_000_000),
    help="Number of counters; give it again for more sizes.",
)
@click.option(
    "--streams",
    default=(1, 2),
    multiple=True,
    show_default=True,
    type=Number(1, MAX_PARTS),
    help="FLUSH_STREAMS; give it again for more.",
)
@click.option(
    "--postgres",
    "postgres_settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_require_assignments,
    help="A setting of PostgreSQL, such as shared_buffers=4GB; give it again for more.",
)
@json_option
def scale(sizes: tuple[int, ...], streams: tuple[int, ...], postgres_settings: tuple[str, ...], as_json: bool) -> None:
    """Flush many counters, in one stream and in several.

    Of VODs without totals, then of the same again; each number on fresh servers. Checks that each view counts once.
    """
    from viewer_pipeline.bench import bench_scale, scale_table

    stats = bench_scale.bench_scale(_request(), sizes, streams, echo_progress, postgres_settings=postgres_settings)
    echo_result({"scale": stats}, partial(scale_table.print_scale_tables, stats), as_json=as_json)


@bench.command("all")
@bench_options
def bench_all(runs: int, as_json: bool) -> None:
    """Run all but `runs` and `scale`, with their defaults."""
    from viewer_pipeline.bench import bench_messages, bench_reconcile, bench_target, bench_unrelated_keys, flush_tables
    from viewer_pipeline.bench import result_tables as tables

    flushes = _bench_flushes(FLUSH_SIZES, runs)
    target = bench_target.bench_target(_request(target_table="bench"), 1_000_000, 100_000, runs=runs)
    changed = bench_unrelated_keys.bench_unrelated_keys(1_000, 1_000_000, runs=runs)
    messages = bench_messages.bench_messages(500_000, runs=runs)
    reconciled = bench_reconcile.bench_reconcile(100_000)
    stats = {"flush": flushes, "changed": changed, "target": target, "messages": messages, "reconcile": reconciled}

    def print_all() -> None:
        flush_tables.print_flush_tables(flushes)
        tables.print_target_table(target)
        tables.print_unrelated_keys_table(changed)
        tables.print_messages_table(messages)
        tables.print_reconcile_table(reconciled)

    echo_result(stats, print_all, as_json=as_json)
