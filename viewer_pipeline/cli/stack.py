"""Commands that run everything on one machine, and that upgrade its servers: up, demo, migrate."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from viewer_pipeline.cli.command_settings import command_settings
from viewer_pipeline.cli.options import as_json, echo_progress, echo_result, prepare_throwaway_stack
from viewer_pipeline.logs import log_to_stderr
from viewer_pipeline.settings import load_settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.standard_streams import tolerate_write_errors

if TYPE_CHECKING:
    from viewer_pipeline.flush.adoption import AdoptionMode  # imports pandas, which most commands do not need


@click.command()
@click.option("--ui-host", default=LOOPBACK, show_default=True, help="Address of Dagster's UI. It has no login.")
@click.option(
    "--adopt",
    type=click.Choice(["continue", "settle-newer", "from-here"]),
    help="First give the counters in Redis to this database, as the command `adopt` does.",
)
def up(ui_host: str, adopt: AdoptionMode | None) -> None:
    """Run everything in the foreground: embedded servers where no URL is set, migrations, Dagster, worker."""
    from viewer_pipeline.stack.up import run_up

    tolerate_write_errors("stdout", "stderr")
    settings = load_settings()
    log_to_stderr(settings)
    run_up(settings, echo_progress, ui_host, adopt)


@click.command()
@click.option("--views", default=20_000, show_default=True, type=click.IntRange(30), help="Views to send.")
@click.option("--vods", default=500, show_default=True, type=click.IntRange(1), help="VODs to send them to.")
@click.option("--time-limit", default=80.0, show_default=True, help="Seconds after which it gives up.")
@as_json
def demo(views: int, vods: int, time_limit: float, as_json: bool) -> None:
    """Run the main job on a throw-away stack, and check that every view arrived once."""
    from viewer_pipeline.stack.demo import run_demo
    from viewer_pipeline.stack.demo_display import Display, print_report

    prepare_throwaway_stack(logging.ERROR)
    settings = load_settings()
    with Display(views) as display:
        report = run_demo(settings, views, vods, time_limit, on_progress=display.print, on_counts=display.show_counts)
    names = ("left_in_redis", "lost", "duplicated")
    result = asdict(report) | {name: getattr(report, name) for name in names} | {"exact": report.is_exact}
    echo_result(result, partial(print_report, report), as_json=as_json)
    if not report.is_exact:
        raise SystemExit(1)


@click.command()
@as_json
def migrate(as_json: bool) -> None:
    """Upgrade both servers: the schema `viewer`, and the state that version 0.1.0 kept in Redis.

    Safe to repeat and to run concurrently. To upgrade from version 0.1.0, stop all its processes first.
    """
    from viewer_pipeline.stack.server_migration import migrate_servers

    settings = command_settings(warn=True)
    migration = migrate_servers(settings, echo_progress)
    if migration.before == migration.after:
        text = f"schema viewer is at revision {migration.after} already"
    else:
        text = f"schema viewer: {migration.before or 'nothing'} -> {migration.after}"
    if migration.redis_moved:
        text += f"\nRedis: the state of version 0.1.0 belongs to the prefix {settings.counter_prefix!r} now"
    echo_result(migration, text, as_json=as_json)
