"""The command `held`."""

from __future__ import annotations

from functools import partial
from typing import Literal

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.option_types import NamedArgument
from viewer_pipeline.cli.output import echo_result, json_option


@click.command()
@click.argument(
    "decision", cls=NamedArgument, type=click.Choice(["count", "drop"]), metavar="[DECISION]", required=False
)
@click.option(
    "--epoch",
    "epochs",
    multiple=True,
    metavar="EPOCH",
    help="Decide about this occasion only, as `held` shows it; may be repeated.",
)
@json_option
def held(decision: Literal["count", "drop"] | None, epochs: tuple[str, ...], as_json: bool) -> None:
    """Show held views, or decide about them.

    Redis had lost its marker, or fell back to an old copy, and these views may have been counted before. DECISION is
    count (Redis had been emptied, they are new) or drop (Redis was restored from an old copy, they are in the totals).
    """
    from viewer_pipeline.cli.held_decision import decide_about_held, print_held

    if epochs and decision is None:
        raise click.UsageError("--epoch goes with `count` or `drop`")
    settings = load_settings_with_running_servers()
    if decision == "count":
        require_responding_servers(settings)
    report = decide_about_held(settings, decision, epochs)
    echo_result(report.to_dict(), partial(print_held, report), as_json=as_json)
