"""The command `retire`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.option_types import NamedArgument
from viewer_pipeline.cli.output import echo_result, json_option


class Prefix(click.ParamType[str]):
    """A counter prefix, PREFIX in `--help`."""

    name = "prefix"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the prefix. Raises BadParameter if it is empty."""
        if not value:
            self.fail("empty; expected the counter prefix of a pipeline", param, ctx)
        return value

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return what is expected."""
        return "Expected the counter prefix of a pipeline, such as vod:views:"


@click.command()
@click.argument("prefix", cls=NamedArgument, type=Prefix())
@click.option(
    "--keep-counters",
    is_flag=True,
    help="Settle what the database of DATABASE_URL has counted, and leave the remaining counters to others.",
)
@json_option
def retire(prefix: str, keep_counters: bool, as_json: bool) -> None:
    """Remove a pipeline from the registry in Redis.

    The one with this counter PREFIX, in the Redis of REDIS_URL. It must have no counters left.
    """
    from viewer_pipeline.flush.ledger import Ledger
    from viewer_pipeline.flush.open_store import open_store
    from viewer_pipeline.flush.retirement import retire_pipeline
    from viewer_pipeline.stores.redis import connect, require_reply

    settings = load_settings_with_running_servers()
    ledger = Ledger.of(settings) if keep_counters else None
    require_reply(settings.require_redis_url())
    with connect(settings.require_redis_url()) as client:
        retired = retire_pipeline(open_store(client, settings), prefix, settled_by=ledger)
    text = f"retired {prefix!r}" if retired else f"no pipeline with the prefix {prefix!r} is known to this Redis"
    echo_result({"prefix": prefix, "retired": retired}, text, as_json=as_json)
