"""The command `parked`."""

from __future__ import annotations

from functools import partial

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.output import echo_result, json_option


@click.command()
@click.option("--apply", is_flag=True, help="Count now what can be counted, instead of at the next sweep.")
@click.option(
    "--discard", multiple=True, metavar="VOD_ID", help="Discard the parked views of this VOD; may be repeated."
)
@json_option
def parked(apply: bool, discard: tuple[str, ...], as_json: bool) -> None:
    """Show, apply or discard parked views.

    Those are views of VODs that the target table lacks, or has no room for.
    """
    from viewer_pipeline.cli.parked_changes import apply_or_discard_parked
    from viewer_pipeline.cli.parked_report import print_parked

    report = apply_or_discard_parked(load_settings_with_running_servers(), apply=apply, discard=discard)
    echo_result(report.to_dict(), partial(print_parked, report), as_json=as_json)
    if None in report.discarded.values():
        raise SystemExit(1)
