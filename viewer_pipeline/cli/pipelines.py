"""Commands on the owner of the counters of a Redis: adopt, retire."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import command_settings
from viewer_pipeline.cli.options import as_json, echo_result
from viewer_pipeline.errors import SettingsError


@click.command()
@click.option(
    "--settle-newer",
    is_flag=True,
    help="This ledger has newer flushes, read from this Redis: subtract them.",
)
@click.option(
    "--from-here",
    is_flag=True,
    help="Begin at the end of this ledger, though it does not contain the flush that Redis was settled by.",
)
@as_json
def adopt(settle_newer: bool, from_here: bool, as_json: bool) -> None:
    """Give the counters in Redis to this database: after a restored dump, a clone, or pg_upgrade.

    Stop everything that works with the other database first. Without an option, the last flush of this ledger must be
    the one up to which Redis was settled.
    """
    from viewer_pipeline.flush.adoption import adopt as adopt_counters
    from viewer_pipeline.flush.stores import Stores

    settings = command_settings(warn=True)
    if settle_newer and from_here:
        raise click.UsageError("--settle-newer and --from-here exclude each other")
    with Stores.open(settings) as stores:
        adoption = adopt_counters(stores, "from-here" if from_here else "settle-newer" if settle_newer else "continue")
    text = f"the counters {adoption.prefix}* belong to {adoption.place}"
    start = "begins at the end of its ledger, flush" if adoption.from_here else "continues after flush"
    text += f" now; it {start} {adoption.flush}" if adoption.changed else " already"
    echo_result(adoption._asdict(), text, as_json=as_json)


@click.command()
@click.argument("prefix")
@click.option(
    "--keep-counters",
    is_flag=True,
    help="Settle what the database of DATABASE_URL has counted, and leave the remaining counters to others.",
)
@as_json
def retire(prefix: str, keep_counters: bool, as_json: bool) -> None:
    """Remove the pipeline with this counter PREFIX from the Redis of REDIS_URL. It must have no counters left."""
    from viewer_pipeline.flush.adoption import retire as retire_pipeline
    from viewer_pipeline.flush.ledger import Ledger
    from viewer_pipeline.flush.redis_store import RedisStore
    from viewer_pipeline.stores.redis import connect

    if not prefix:
        raise SettingsError("PREFIX='': expected the counter prefix of a pipeline")
    settings = command_settings()
    ledger = Ledger.of(settings) if keep_counters else None
    with connect(settings.require_redis_url()) as client:
        retired = retire_pipeline(RedisStore.of(client, settings), prefix, settled_by=ledger)
    text = f"retired {prefix!r}" if retired else f"no pipeline with the prefix {prefix!r} is known to this Redis"
    echo_result({"prefix": prefix, "retired": retired}, text, as_json=as_json)
