"""Commands that move views: flush, send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from viewer_pipeline.cli.command_settings import command_settings, require_servers
from viewer_pipeline.cli.options import as_json, echo_result
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.settings import Settings

if TYPE_CHECKING:
    from viewer_pipeline.cli.in_process_runs import RunResult  # imports Dagster


@click.command()
@click.option(
    "--mode", type=click.Choice(["sweep", "changed"]), default="sweep", show_default=True, help="Which counters."
)
@click.option("--vod-id", "vod_ids", multiple=True, help="Flush only this VOD; may be repeated.")
@as_json
def flush(mode: str, vod_ids: tuple[str, ...], as_json: bool) -> None:
    """Run one flush in this process, recorded in Dagster's history."""
    settings = command_settings(warn=True)
    require_servers(settings)
    _require_flushable(settings)
    from viewer_pipeline.cli.in_process_runs import run_flush
    from viewer_pipeline.orchestration.instance import open_instance
    from viewer_pipeline.orchestration.ops import FlushMode

    with open_instance(settings) as instance:
        result = run_flush(instance, settings, FlushMode[mode], vod_ids=vod_ids, trigger="command line")
    text = "run {run_id}: {views} views of {counters} counters in {flushes} flushes, {rejected} rejected; {notes}"
    stats = {"run_id": result.run_id, **result.stats}
    echo_run(result, text.format_map(stats) if result.success else "", as_json=as_json)


def echo_run(result: RunResult, text: str, *, as_json: bool) -> None:
    """Print the result of a run; name failed checks and a failed run on stderr, with exit status 1."""
    if as_json or text:
        echo_result(result.to_dict(), text, as_json=as_json)
    failed_checks = [check.name for check in result.checks if not check.passed]
    if failed_checks:
        click.echo(f"failed checks: {', '.join(failed_checks)}", err=True)
    if not result.success:
        click.echo(f"run {result.run_id} failed; its events are in the Dagster UI", err=True)
    if failed_checks or not result.success:
        raise SystemExit(1)


def _require_flushable(settings: Settings) -> None:
    """Raise SettingsError if Redis lacks the configured durability, or the pipeline or the target table is refused."""
    from viewer_pipeline.flush.ledger import require_target
    from viewer_pipeline.flush.ownership import require_pipeline
    from viewer_pipeline.stores.durability import require_durability

    require_durability(settings)
    require_pipeline(settings)
    require_target(settings)


@click.command()
@click.argument("vod_id")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 2**63 - 1), help="How many views.")
@click.option(
    "--how",
    type=click.Choice(["publish", "incr", "both"]),
    help="publish: a message; incr: the counter; both: as Streamix does. Default: what PUBSUB_MODE needs.",
)
@as_json
def send(vod_id: str, count: int, how: str | None, as_json: bool) -> None:
    """Send views of VOD_ID by hand, as a producer does."""
    settings = command_settings()
    sent = send_views(settings, vod_id, count, how or ("both" if settings.pubsub_mode == "announce" else "publish"))
    received = f", received by {sent['subscribers']} subscribers" if sent["how"] != "incr" else ""
    echo_result(sent, f"sent {count} views of {vod_id} by {sent['how']}{received}", as_json=as_json)


def send_views(settings: Settings, vod_id: str, count: int, how: str) -> dict[str, Any]:
    """Send `count` views as a producer does: by `publish`, `incr`, or `both`. Raises SettingsError for a bad id."""
    import orjson

    from viewer_pipeline.flush.counters import id_error
    from viewer_pipeline.stores.redis import connect, redis_errors

    if reason := id_error(vod_id):
        raise SettingsError(f"VOD_ID={vod_id[:40]!r}: {reason}")
    url, subscribers = settings.require_redis_url(), 0
    with connect(url) as client, redis_errors(url):
        if how in ("incr", "both"):
            client.incrby(settings.counter_prefix + vod_id, count)
        if how in ("publish", "both"):
            subscribers = client.publish(settings.pubsub_channel, orjson.dumps({"vodId": vod_id, "count": count}))
    return {"vod_id": vod_id, "count": count, "how": how, "subscribers": subscribers}
