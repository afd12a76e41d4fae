"""The command `send`: views sent by hand, as a producer does."""

from __future__ import annotations

from typing import Any

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.option_types import VOD_ID, Number
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.errors import NotReceived
from viewer_pipeline.settings import Settings
from viewer_pipeline.settings_of_running_up import remedy_of_missing_worker
from viewer_pipeline.text_formatting import escape_invisible, pluralize

MAX_VIEWS = 1_000_000_000
REPLY_SECONDS = 3.0  # until Redis counts as frozen; each command is sent once


@click.command()
@click.argument("vod_id", type=VOD_ID)
@click.option("--count", default=1, show_default=True, type=Number(1, MAX_VIEWS), help="How many views.")
@click.option(
    "--how",
    type=click.Choice(["publish", "incr", "both"]),
    help="publish: a message; incr: the counter; both: as Streamix does. Default: what PUBSUB_MODE needs.",
)
@json_option
def send(vod_id: str, count: int, how: str | None, as_json: bool) -> None:
    """Send views of a VOD by hand, as a producer does.

    Exit status 1 if nobody received a message that carries views: they are lost.
    """
    from viewer_pipeline.ingest.messages import MAX_MESSAGE_COUNT

    settings = load_settings_with_running_servers()
    is_counted_by_producers = settings.pubsub_mode == "announce"
    how = how or ("both" if is_counted_by_producers else "publish")
    if how == "both" and not is_counted_by_producers:
        message = "with PUBSUB_MODE=increment each view would count twice, by the message and in the counter;"
        raise click.BadParameter(f"{message} choose publish or incr", param_hint="'--how'")
    if how == "publish" and not is_counted_by_producers and count > MAX_MESSAGE_COUNT:
        message = f"{count} is more than a message can carry, which is {MAX_MESSAGE_COUNT}; choose --how incr"
        raise click.BadParameter(message, param_hint="'--count'")
    sent = send_views(settings, vod_id, count, how)
    is_lost = how == "publish" and not is_counted_by_producers and not sent["subscribers"]
    if is_lost:
        message = f"no worker is subscribed to {settings.pubsub_channel}, and Redis keeps no messages: "
        message += f"{pluralize(count, 'view')} of {escape_invisible(vod_id)} {'is' if count == 1 else 'are'} lost"
        raise NotReceived(message, f"{remedy_of_missing_worker(settings)}; then send again")
    views = f"{pluralize(count, 'view')} of {escape_invisible(vod_id)}"
    text = f"sent {views} by {how}{_describe_receivers(sent, is_counted_by_producers=is_counted_by_producers)}"
    echo_result(sent, text, as_json=as_json)


def _describe_receivers(sent: dict[str, Any], *, is_counted_by_producers: bool) -> str:
    """Return who received the message, and what becomes of the views if that alone does not tell it."""
    if sent["how"] == "incr":
        return ""
    received = f", received by {pluralize(sent['subscribers'], 'subscriber')}"
    if is_counted_by_producers and sent["how"] == "publish":
        return f"{received}; with PUBSUB_MODE=announce a message counts no views: use --how both"
    return received if sent["subscribers"] else f"{received}; the next sweep reads the counter"


def send_views(settings: Settings, vod_id: str, count: int, how: str) -> dict[str, Any]:
    """Send `count` views as a producer does: by `publish`, `incr`, or `both`. Raises RedisUnavailable, RedisFailed."""
    import orjson

    from viewer_pipeline.flush.open_store import open_store
    from viewer_pipeline.stores.redis import connect, redis_errors

    url, subscribers = settings.require_redis_url(), 0
    with connect(url, seconds=REPLY_SECONDS, retries=0) as client, redis_errors(url):
        if how in ("incr", "both"):
            open_store(client, settings).add_views(vod_id, count)
        if how in ("publish", "both"):
            subscribers = client.publish(settings.pubsub_channel, orjson.dumps({"vodId": vod_id, "count": count}))
    return {"vod_id": vod_id, "count": count, "how": how, "subscribers": subscribers}
