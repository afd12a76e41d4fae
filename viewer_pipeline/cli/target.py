"""Commands on the user's own table and on the rights of a role: parked, grants."""

from __future__ import annotations

from functools import partial

import click

from viewer_pipeline.cli.command_settings import command_settings
from viewer_pipeline.cli.options import as_json, echo_result
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.settings import load_settings


@click.command()
@click.option("--target", metavar="TABLE", help="The target table: `table` or `schema.table`. Default: TARGET_TABLE.")
@click.option("--role", default="viewer_pipeline", show_default=True, help="Name of the role, and of the Redis user.")
@as_json
def grants(target: str | None, role: str, as_json: bool) -> None:
    """Print the SQL and the Redis ACL line of a role with only the rights needed here. Connects to nothing."""
    from viewer_pipeline.cli.grants.statements import grants_for, render
    from viewer_pipeline.target.table import TargetNames

    settings = load_settings() if target is None else load_settings().changed(target_table=target)
    try:
        names = TargetNames.of(settings)
    except ValueError as error:
        raise SettingsError(f"--target={target!r}: {error}") from None
    result = grants_for(settings, role, names)
    echo_result(result, render(result), as_json=as_json)


@click.command()
@click.option("--apply", is_flag=True, help="Count now what can be counted, instead of at the next sweep.")
@click.option("--discard", multiple=True, metavar="ID", help="Discard the parked views of this VOD; may be repeated.")
@as_json
def parked(apply: bool, discard: tuple[str, ...], as_json: bool) -> None:
    """Show parked views: those of VODs that the target table lacks, or has no room for."""
    from viewer_pipeline.cli.parked_views import change_parked, show_parked

    report = change_parked(command_settings(), apply=apply, discard=discard)
    echo_result(report.to_dict(), partial(show_parked, report), as_json=as_json)
    if None in report.discarded.values():
        raise SystemExit(1)
