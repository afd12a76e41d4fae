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
@click.option("--settings", "is_of_settings", is_flag=True, help="Confirm changed settings (lost_settings) instead.")
@json_option
def acknowledge(kinds: tuple[Kind, ...], is_of_settings: bool, as_json: bool) -> None:
    """Close open incidents of /health and status.

    All of them, or those of these kinds: postgres_rolled_back, redis_emptied, drift.
    """
    if is_of_settings and kinds:
        raise click.UsageError("--settings closes no incident, so it takes no KIND")
    if is_of_settings:
        confirm_settings(as_json=as_json)
    else:
        close_incidents(kinds, as_json=as_json)


def close_incidents(kinds: tuple[Kind, ...], *, as_json: bool) -> None:
    """Close open incidents of these kinds, or of all; print how many."""
    from viewer_pipeline.flush.incidents import acknowledge as close
    from viewer_pipeline.flush.ledger import Ledger

    with Ledger.of(load_settings_with_running_servers()).connect() as connection:
        closed = close(connection, list(kinds or KINDS))
    text = f"acknowledged {pluralize(closed, 'incident')}" if closed else "no incident was open"
    echo_result({"acknowledged": closed}, text, as_json=as_json)


def confirm_settings(*, as_json: bool) -> None:
    """Record the settings of this command as those in use, and print which of the recorded ones it has not."""
    from viewer_pipeline.flush.recorded_settings import replace_recorded_settings
    from viewer_pipeline.flush.stores import Stores

    settings = load_settings_with_running_servers()
    with Stores.open(settings) as stores:
        lost = replace_recorded_settings(stores.redis, settings)
    removed = ", ".join(f"{name}={value}" for name, value in lost.items())
    text = f"removed from the recorded settings: {removed}" if lost else "no recorded setting was missing"
    echo_result({"removed": lost}, text, as_json=as_json)
