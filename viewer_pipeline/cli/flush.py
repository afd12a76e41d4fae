"""The command `flush`."""

from __future__ import annotations

from typing import Any

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.option_types import VOD_ID
from viewer_pipeline.cli.output import json_option
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import escape_invisible, pluralize


@click.command()
@click.option(
    "--mode",
    type=click.Choice(["sweep", "changed"]),
    default="sweep",
    show_default=True,
    help="sweep: all counters; changed: announced ones.",
)
@click.option("--vod-id", "vod_ids", multiple=True, type=VOD_ID, help="Flush only this VOD; may be repeated.")
@json_option
def flush(mode: str, vod_ids: tuple[str, ...], as_json: bool) -> None:
    """Flush until nothing older is pending.

    The runs are executed in this process, and recorded in Dagster's history.
    """
    settings = load_settings_with_running_servers()
    require_responding_servers(settings)
    _require_usable_redis_and_target(settings)
    from viewer_pipeline.cli.in_process_runs import echo_run_result, merge_results, run_flushes
    from viewer_pipeline.orchestration.dagster_instance import open_instance
    from viewer_pipeline.orchestration.flush_ops import FlushMode

    if unknown := _find_unknown(settings, sorted(set(vod_ids))):
        names = ", ".join(map(escape_invisible, unknown))
        click.echo(f"VODs without a counter in Redis and a total in PostgreSQL: {names}", err=True)
    with open_instance(settings) as instance:
        results = []
        for result in run_flushes(instance, settings, FlushMode[mode], vod_ids=vod_ids, trigger="command line"):
            results.append(result)
            if result.success and not as_json:
                click.echo(_describe_run(result.run_id, result.stats))
    echo_run_result(merge_results(results), "", as_json=as_json)


def _describe_run(run_id: str, stats: dict[str, Any]) -> str:
    views, counters = pluralize(stats["views"], "view"), pluralize(stats["counters"], "counter")
    flushes = pluralize(stats["flushes"], "flush")
    return f"run {run_id}: {views} of {counters} in {flushes}, {stats['rejected']} rejected; {stats['notes']}"


def _find_unknown(settings: Settings, vod_ids: list[str]) -> list[str]:
    """Return those of these VODs that have neither a counter nor a total: their ids may be misspelled."""
    from viewer_pipeline.flush.ledger_reads import totals
    from viewer_pipeline.flush.stores import Stores

    if not vod_ids:
        return []
    with Stores.open(settings) as stores, stores.ledger.connect() as connection:
        counters = stores.redis.values([vod_id.encode() for vod_id in vod_ids])
        known = totals(connection, vod_ids)
    return [vod_id for vod_id, value in zip(vod_ids, counters, strict=True) if value is None and vod_id not in known]


def _require_usable_redis_and_target(settings: Settings) -> None:
    """Raise SettingsError if a server cannot wait as configured, or the pipeline or the target table is refused."""
    from viewer_pipeline.flush.ledger import require_standby_support, require_target
    from viewer_pipeline.flush.marker_ownership import register_pipeline_if_reachable
    from viewer_pipeline.stores.redis_durability_wait import require_durability_support

    require_durability_support(settings)
    register_pipeline_if_reachable(settings)
    require_target(settings)
    require_standby_support(settings)
