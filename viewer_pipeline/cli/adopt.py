"""The command `adopt`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.output import echo_result, json_option


@click.command()
@click.option(
    "--settle-newer", is_flag=True, help="This ledger has newer flushes, read from this Redis: subtract them."
)
@click.option(
    "--from-here",
    is_flag=True,
    help="Begin at the end of this ledger, though it does not contain the flush that Redis was settled by.",
)
@json_option
def adopt(settle_newer: bool, from_here: bool, as_json: bool) -> None:
    """Give the counters in Redis to this database.

    After a restored dump, a clone, or pg_upgrade. Stop everything that works with the other database first.

    Without an option, the last flush of this ledger must be the one up to which Redis was settled.
    """
    from viewer_pipeline.flush.adoption import adopt_pipeline
    from viewer_pipeline.flush.stores import Stores
    from viewer_pipeline.streams import format_seq

    settings = load_settings_with_running_servers()
    if settle_newer and from_here:
        raise click.UsageError("--settle-newer and --from-here exclude each other")
    require_responding_servers(settings)
    with Stores.open(settings) as stores:
        adoption = adopt_pipeline(stores, "from-here" if from_here else "settle-newer" if settle_newer else "continue")
    text = f"the counters {adoption.prefix}* belong to {adoption.place}"
    start = "begins at the end of its ledger, flush" if adoption.from_here else "continues after flush"
    text += f" now; it {start} {format_seq(adoption.flush)}" if adoption.changed else " already"
    echo_result(adoption._asdict(), text, as_json=as_json)
