"""The command `backfill`."""

from __future__ import annotations

from datetime import datetime

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.output import json_option
from viewer_pipeline.text_formatting import views_of_vods


@click.command()
@click.argument("first", type=click.DateTime(["%Y-%m-%d"]))
@click.argument("last", type=click.DateTime(["%Y-%m-%d"]), required=False)
@json_option
def backfill(first: datetime, last: datetime | None, as_json: bool) -> None:
    """Roll up the days FIRST to LAST (UTC; default: today) of `daily_views` again. Safe to repeat."""
    settings = load_settings_with_running_servers()
    require_responding_servers(settings)
    from viewer_pipeline.cli.in_process_runs import backfill_window, echo_run_result, run_backfill
    from viewer_pipeline.orchestration.dagster_instance import open_instance

    window = backfill_window(settings, first.date(), last.date() if last else None)
    with open_instance(settings) as instance:
        result = run_backfill(instance, settings, window)
    days = [
        f"{day}: {views_of_vods(stats['views'], stats['vods'])} {stats.get('notes', '')}".rstrip()
        for day, stats in result.stats.items()
    ]
    echo_run_result(result, "\n".join(days), as_json=as_json)
