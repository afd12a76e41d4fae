"""The command `demo`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial

import click

from viewer_pipeline.cli.demo_and_soak_setup import configure_logging_and_sigterm
from viewer_pipeline.cli.option_types import Number, Seconds
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.settings import load_settings


@click.command()
@click.option("--views", default=20_000, show_default=True, type=Number(30), help="Views to send.")
@click.option("--vods", default=500, show_default=True, type=Number(1), help="VODs to send them to.")
@click.option(
    "--time-limit",
    default=80.0,
    show_default=True,
    type=Seconds(1),
    help="When it gives up.",
)
@click.option(
    "--celery",
    "celery_workers",
    default=0,
    metavar="N",
    type=click.IntRange(0, 16),
    help="Execute the runs in N Celery workers, with a broker of their own. Needs the extra `celery`.",
)
@click.option("--kill-worker", is_flag=True, help="With --celery: kill one of the workers half-way.")
@json_option
def demo(*, views: int, vods: int, time_limit: float, celery_workers: int, kill_worker: bool, as_json: bool) -> None:
    """Run a throw-away stack; check that every view counts once."""
    if kill_worker and celery_workers < 2:
        raise click.UsageError("--kill-worker needs --celery with 2 or more workers: one must remain")
    from viewer_pipeline.stack.demo import run_demo
    from viewer_pipeline.stack.demo_terminal import DemoProgressBars, print_demo_report

    configure_logging_and_sigterm(logging.ERROR)
    settings = load_settings()
    with DemoProgressBars(views) as display:
        report = run_demo(
            settings,
            views,
            vods,
            time_limit,
            on_step=display.print,
            on_totals=display.show_totals,
            celery_workers=celery_workers,
            kill_worker=kill_worker,
        )
    names = ("left_in_redis", "lost", "duplicated")
    result = asdict(report) | {name: getattr(report, name) for name in names} | {"exact": report.is_exact}
    echo_result(result, partial(print_demo_report, report), as_json=as_json)
    if not report.is_exact:
        raise SystemExit(1)
