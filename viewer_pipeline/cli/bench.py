"""The commands `bench …`: measurements on embedded servers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from viewer_pipeline.cli.demo_and_soak_setup import configure_logging_and_sigterm
from viewer_pipeline.cli.output import echo_progress, echo_result, json_option
from viewer_pipeline.settings import load_settings

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def bench() -> None:
    """Measure on embedded servers, with a reference in the same run."""


def bench_options(command: F) -> F:
    """Add the options of every benchmark."""
    count = click.IntRange(1, 100)
    runs = click.option("--runs", default=5, show_default=True, type=count, help="Number of runs; prints medians.")
    return runs(json_option(command))


def _limits(**changes: str) -> dict[str, int]:
    settings = load_settings().copy_unvalidated(**changes)
    return {"batch_size": settings.batch_size, "flush_max_counters": settings.max_counters_per_flush}


@bench.command()
@click.option("--counters", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000))
@bench_options
def flush(counters: int, runs: int, as_json: bool) -> None:
    """Time a flush of existing counters, beside the same rows written by PostgreSQL alone."""
    from viewer_pipeline.bench import bench_flush, result_tables

    stats = bench_flush.bench_flush(counters, runs=runs, **_limits())
    echo_result(stats, partial(result_tables.print_flush_table, [stats]), as_json=as_json)


@bench.command()
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Rows of the table.")
@click.option("--counters", default=100_000, show_default=True, type=click.IntRange(1))
@bench_options
def target(rows: int, counters: int, runs: int, as_json: bool) -> None:
    """Time a flush into a wide table of the user's, beside one UPDATE of the same rows, and an editor's wait."""
    from viewer_pipeline.bench import bench_target, result_tables

    if counters > rows:
        raise click.UsageError(f"--counters {counters}: expected at most --rows, which is {rows}")
    stats = bench_target.bench_target(rows, counters, runs=runs, **_limits(target_table="bench"))
    echo_result(stats, partial(result_tables.print_target_table, stats), as_json=as_json)


@bench.command()
@click.option("--counters", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--others", default=1_000_000, show_default=True, type=click.IntRange(0), help="Unrelated keys.")
@bench_options
def changed(counters: int, others: int, runs: int, as_json: bool) -> None:
    """Time a flush of the changed set alone and beside many unrelated keys, and the sensor's scan of those."""
    from viewer_pipeline.bench import bench_unrelated_keys, result_tables

    stats = bench_unrelated_keys.bench_unrelated_keys(counters, others, runs=runs)
    echo_result(stats, partial(result_tables.print_unrelated_keys_table, stats), as_json=as_json)


@bench.command()
@click.option("--totals", default=1_000_000, show_default=True, type=click.IntRange(10_000, 90_000_000))
@json_option
def reconcile(totals: int, as_json: bool) -> None:
    """Time a comparison of totals, target and ledger, repairing some, and taking a baseline, beside a plain read."""
    from viewer_pipeline.bench import bench_reconcile, result_tables

    stats = bench_reconcile.bench_reconcile(totals // 10_000 * 10_000)
    echo_result(stats, partial(result_tables.print_reconcile_table, stats), as_json=as_json)


@bench.command()
@click.option("--messages", default=500_000, show_default=True, type=click.IntRange(1), help="Messages to publish.")
@bench_options
def messages(messages: int, runs: int, as_json: bool) -> None:
    """Time the subscriber on messages through a real Redis, beside a plain redis-py loop."""
    from viewer_pipeline.bench import bench_messages, result_tables

    stats = bench_messages.bench_messages(messages, runs=runs)
    echo_result(stats, partial(result_tables.print_messages_table, stats), as_json=as_json)


@bench.command()
@click.option(
    "--rounds", default=2, show_default=True, type=click.IntRange(1, 100), help="Number of rounds; prints medians."
)
@click.option(
    "--seconds", default=40.0, show_default=True, type=click.FloatRange(1), help="Duration of the part with views."
)
@click.option(
    "--idle-seconds",
    default=12.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Duration of the warm-up, and of the part without views.",
)
@click.option(
    "--interval-ms", default=5000, show_default=True, type=click.IntRange(5000, 60_000), help="BATCH_INTERVAL_MS."
)
@json_option
def runs(rounds: int, seconds: float, idle_seconds: float, interval_ms: int, as_json: bool) -> None:
    """Measure CPU, delay and memory of `up` with spawned runs and with warm runs in turn, beside the goals.

    Each round starts `up` with WARM_RUNS=false, where each run is a new Python process, then with WARM_RUNS=true.
    Linux only.
    """
    from viewer_pipeline.bench import bench_runs, result_tables

    configure_logging_and_sigterm(logging.CRITICAL)
    stats = bench_runs.bench_runs(
        rounds=rounds, seconds=seconds, idle_seconds=idle_seconds, interval_ms=interval_ms, on_progress=echo_progress
    )
    echo_result(stats, partial(result_tables.print_runs_table, stats), as_json=as_json)


@bench.command("all")
@bench_options
def bench_all(runs: int, as_json: bool) -> None:
    """Run all but `runs`: flushes of 100 000 and 1 000 000 counters, a table, the changed set, messages, reconcile."""
    from viewer_pipeline.bench import bench_flush, bench_messages, bench_reconcile, bench_target, bench_unrelated_keys
    from viewer_pipeline.bench import result_tables as tables

    flushes = [bench_flush.bench_flush(counters, runs=runs, **_limits()) for counters in (100_000, 1_000_000)]
    target = bench_target.bench_target(1_000_000, 100_000, runs=runs, **_limits(target_table="bench"))
    changed = bench_unrelated_keys.bench_unrelated_keys(1_000, 1_000_000, runs=runs)
    messages = bench_messages.bench_messages(500_000, runs=runs)
    reconciled = bench_reconcile.bench_reconcile(100_000)
    stats = {"flush": flushes, "changed": changed, "target": target, "messages": messages, "reconcile": reconciled}

    def print_all() -> None:
        tables.print_flush_table(flushes)
        tables.print_target_table(target)
        tables.print_unrelated_keys_table(changed)
        tables.print_messages_table(messages)
        tables.print_reconcile_table(reconciled)

    echo_result(stats, print_all, as_json=as_json)
