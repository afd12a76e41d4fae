"""The command `backfill`."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.option_types import NamedArgument
from viewer_pipeline.cli.output import json_option
from viewer_pipeline.history.days import ONE_DAY, Window, today
from viewer_pipeline.history.first_day import first_day_of_history
from viewer_pipeline.text_formatting import views_of_vods


class Day(click.ParamType[date]):
    """A day as 2026-11-28."""

    name = "day"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Parse it."""
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r}: expected a day as 2026-11-28", param, ctx)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return what is expected."""
        return "Expected a day as 2026-11-28."


@click.command()
@click.argument("first", cls=NamedArgument, type=Day())
@click.argument("last", cls=NamedArgument, type=Day(), required=False)
@json_option
def backfill(first: date, last: date | None, as_json: bool) -> None:
    """Roll up days of `daily_views` again.

    The days FIRST to LAST, as 2026-11-28, in HISTORY_TIMEZONE; by default to today. Safe to repeat.
    """
    settings = load_settings_with_running_servers()
    require_responding_servers(settings)
    window = backfill_window(first_day_of_history(settings), settings.history_timezone, first, last)
    from viewer_pipeline.cli.in_process_runs import echo_run_result, run_backfill
    from viewer_pipeline.orchestration.dagster_instance import open_instance

    with open_instance(settings) as instance:
        result = run_backfill(instance, settings, window)
    days = [
        f"{day}: {views_of_vods(stats['views'], stats['vods'])} {stats.get('notes', '')}".rstrip()
        for day, stats in result.stats.items()
    ]
    echo_run_result(result, "\n".join(days), as_json=as_json)


def backfill_window(start: date, zone: ZoneInfo, first: date, last_or_today: date | None) -> Window:
    """Return the days from `first` to `last_or_today` (None: today). Raises BadParameter if some have no history."""
    newest = today(zone)
    last = last_or_today or newest
    expected = f"expected days from {start} to {newest} ({zone.key}); HISTORY_START sets another first day"
    if not start <= first <= newest:
        raise click.BadParameter(f"{first}: {expected}", param_hint="'FIRST'")
    if not first <= last <= newest:
        raise click.BadParameter(f"{last}: not before FIRST; {expected}", param_hint="'LAST'")
    return Window(first, last + ONE_DAY)
