"""Commands that measure, and that break things under traffic: bench, soak."""

from __future__ import annotations

import logging
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from viewer_pipeline.cli.options import F, as_json, echo_json, echo_progress, stop_by_exit
from viewer_pipeline.settings import TARGET_FLUSH_COUNTERS, load_settings
from viewer_pipeline.standard_streams import tolerate_write_errors
from viewer_pipeline.stop_signals import handle_stop_signals

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Stats = TypeVar("Stats", bound="DataclassInstance")


@click.command()
@click.option(
    "--minutes", default=2.0, show_default=True, type=click.FloatRange(0.05), help="How long to inject faults."
)
@click.option("--seed", type=int, help="Seed of a run to repeat. Default: a new one, which is printed.")
@as_json
def soak(minutes: float, seed: int | None, as_json: bool) -> None:
    """Kill, pause and fail over everything under two pipelines in full traffic; check that every view counts once."""
    from viewer_pipeline.bench.soak import run_soak

    tolerate_write_errors("stderr")
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    echo_progress(f"seed {seed}")
    handle_stop_signals(stop_by_exit, stop_by_exit, [signal.SIGTERM])
    report = run_soak(load_settings(), minutes, seed, echo_progress)
    if as_json:
        echo_json(asdict(report) | {"exact": report.is_exact})
    else:
        faults = f"{sum(report.kills.values())} kills, {sum(report.pauses.values())} pauses"
        faults += f", {report.failovers} failovers"
        lost, duplicated = sum(report.lost.values()), sum(report.duplicated.values())
        click.echo(
            f"seed {report.seed}: {faults}; sent {report.sent} = persisted {report.persisted}"
            f" + in Redis {report.pending}: lost {lost}, duplicated {duplicated}"
        )
    if not report.is_exact:
        raise SystemExit(1)


@click.group()
def bench() -> None:
    """Measure on embedded servers, with a reference in the same run."""


def bench_options(command: F) -> F:
    """Add the options of every benchmark."""
    count = click.IntRange(1, 100)
    runs = click.option("--runs", default=5, show_default=True, type=count, help="Number of runs; prints medians.")
    return runs(as_json(command))


def _report(stats: Stats, render: Callable[[Stats], None], *, as_json: bool) -> None:
    if as_json:
        echo_json(asdict(stats))
    else:
        render(stats)


@bench.command("flush")
@click.option("--counters", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000))
@bench_options
def bench_flush(counters: int, runs: int, as_json: bool) -> None:
    """Time a flush of existing counters, beside the same rows written by PostgreSQL alone."""
    from viewer_pipeline.bench.bench_flush import bench_flush as measure
    from viewer_pipeline.bench.render import render_flush

    settings = load_settings()
    limits = {"batch_size": settings.batch_size, "flush_max_counters": settings.flush_counters}
    stats = measure(counters, runs=runs, **limits)
    _report(stats, lambda stats: render_flush([stats]), as_json=as_json)


@bench.command("target")
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Rows of the table.")
@click.option("--counters", default=100_000, show_default=True, type=click.IntRange(1))
@bench_options
def bench_target(rows: int, counters: int, runs: int, as_json: bool) -> None:
    """Time a flush into a wide table of the user's, beside one UPDATE of the same rows, and an editor's wait."""
    from viewer_pipeline.bench.bench_target import bench_target as measure
    from viewer_pipeline.bench.render import render_target

    if counters > rows:
        raise click.UsageError(f"--counters {counters}: expected at most --rows, which is {rows}")
    settings = load_settings()
    limit = settings.flush_max_counters or TARGET_FLUSH_COUNTERS
    stats = measure(rows, counters, runs=runs, batch_size=settings.batch_size, flush_max_counters=limit)
    _report(stats, render_target, as_json=as_json)


@bench.command("changed")
@click.option("--counters", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--others", default=1_000_000, show_default=True, type=click.IntRange(0), help="Unrelated keys.")
@bench_options
def bench_changed(counters: int, others: int, runs: int, as_json: bool) -> None:
    """Time a flush of the changed set, in an empty Redis and beside many unrelated keys."""
    from viewer_pipeline.bench.bench_changed import bench_changed as measure
    from viewer_pipeline.bench.render import render_changed

    stats = measure(counters, others, runs=runs)
    _report(stats, render_changed, as_json=as_json)


@bench.command("reconcile")
@click.option("--totals", default=1_000_000, show_default=True, type=click.IntRange(10_000, 90_000_000))
@as_json
def bench_reconcile(totals: int, as_json: bool) -> None:
    """Time a comparison of totals, target and ledger, repairing some, and taking a baseline, beside a plain read."""
    from viewer_pipeline.bench.bench_reconcile import bench_reconcile as measure
    from viewer_pipeline.bench.render import render_reconcile

    stats = measure(totals // 10_000 * 10_000)
    _report(stats, render_reconcile, as_json=as_json)


@bench.command("messages")
@click.option("--messages", default=500_000, show_default=True, type=click.IntRange(1), help="Messages to publish.")
@bench_options
def bench_messages(messages: int, runs: int, as_json: bool) -> None:
    """Time the subscriber on messages through a real Redis, beside a plain redis-py loop."""
    from viewer_pipeline.bench.bench_messages import bench_messages as measure
    from viewer_pipeline.bench.render import render_messages

    stats = measure(messages, runs=runs)
    _report(stats, render_messages, as_json=as_json)


@bench.command("all")
@bench_options
def bench_all(runs: int, as_json: bool) -> None:
    """Run every benchmark: flushes of 100 000 and 1 000 000 counters, a table, the changed set, messages, reconcile."""
    from viewer_pipeline.bench import render
    from viewer_pipeline.bench.bench_changed import bench_changed as measure_changed
    from viewer_pipeline.bench.bench_flush import bench_flush as measure_flush
    from viewer_pipeline.bench.bench_messages import bench_messages as measure_messages
    from viewer_pipeline.bench.bench_reconcile import bench_reconcile as measure_reconcile
    from viewer_pipeline.bench.bench_target import bench_target as measure_target

    settings = load_settings()
    limits = {"batch_size": settings.batch_size, "flush_max_counters": settings.flush_counters}
    flushes = [measure_flush(counters, runs=runs, **limits) for counters in (100_000, 1_000_000)]
    limit = settings.flush_max_counters or TARGET_FLUSH_COUNTERS
    target = measure_target(1_000_000, 100_000, runs=runs, batch_size=settings.batch_size, flush_max_counters=limit)
    changed = measure_changed(1_000, 1_000_000, runs=runs)
    messages = measure_messages(500_000, runs=runs)
    reconciled = measure_reconcile(100_000)
    if as_json:
        echo_json(
            {
                "flush": [asdict(stats) for stats in flushes],
                "changed": asdict(changed),
                "target": asdict(target),
                "messages": asdict(messages),
                "reconcile": asdict(reconciled),
            }
        )
    else:
        render.render_flush(flushes)
        render.render_target(target)
        render.render_changed(changed)
        render.render_messages(messages)
        render.render_reconcile(reconciled)
