"""The command `acknowledge`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.option_types import NamedArgument
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.flush.incidents import KINDS, Kind
from viewer_pipeline.text_formatting import pluralize


@click.command()
@click.argument("kinds", cls=NamedArgument, nargs=-1, type=click.Choice(KINDS), metavar="[KIND]...")
@json_option
def acknowledge(kinds: tuple[Kind, ...], as_json: bool) -> None:
    """Close open incidents of /health and status.

    All of them, or those of these kinds: postgres_rolled_back, redis_emptied, drift.
    """
    from viewer_pipeline.flush.incidents import acknowledge as close
    from viewer_pipeline.flush.ledger import Ledger

    with Ledger.of(load_settings_with_running_servers()).connect() as connection:
        closed = close(connection, list(kinds or KINDS))
    text = f"acknowledged {pluralize(closed, 'incident')}" if closed else "no incident was open"
    echo_result({"acknowledged": closed}, text, as_json=as_json)
