"""Commands that show the state of the pipeline, and close its incidents: status, doctor, acknowledge."""

from __future__ import annotations

from functools import partial

import click

from viewer_pipeline.checks import checks_to_dict, worst_status
from viewer_pipeline.cli.command_settings import command_settings
from viewer_pipeline.cli.options import as_json, echo_result
from viewer_pipeline.flush.incidents import KINDS, Kind
from viewer_pipeline.timestamps import format_timestamp


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show what is pending, persisted, parked and rejected, which checks fail, and why nothing was persisted."""
    from viewer_pipeline.monitoring.status import read_status
    from viewer_pipeline.monitoring.status_report import print_status

    pipeline_status = read_status(command_settings())
    echo_result(pipeline_status.to_dict(), partial(print_status, pipeline_status), as_json=as_json)


@click.command()
@click.option(
    "--watch-producers",
    type=click.FloatRange(1, 300),
    metavar="SECONDS",
    help="Watch Redis with MONITOR, which slows it down, to find out which PUBSUB_MODE the producers need.",
)
@as_json
def doctor(watch_producers: float | None, as_json: bool) -> None:
    """Check settings, servers, keys, producers and Dagster; report reasons and remedies. Changes nothing.

    Exit status 1 if a check is unhealthy.
    """
    from viewer_pipeline.monitoring.doctor.examine import examine
    from viewer_pipeline.monitoring.doctor.report import print_report

    results = examine(command_settings(), watch_producers or 0.0)
    status = worst_status(results)
    report = {"status": status, "timestamp": format_timestamp(), "checks": checks_to_dict(results)}
    echo_result(report, partial(print_report, results), as_json=as_json)
    if status == "unhealthy":
        raise SystemExit(1)


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(KINDS))
@as_json
def acknowledge(kinds: tuple[Kind, ...], as_json: bool) -> None:
    """Close open incidents of /health and status: all, or those of these KINDS."""
    from viewer_pipeline.flush.incidents import acknowledge as close
    from viewer_pipeline.flush.ledger import Ledger

    with Ledger.of(command_settings()).connect() as connection:
        closed = close(connection, list(kinds or KINDS))
    text = f"acknowledged {closed} incidents" if closed else "no incident was open"
    echo_result({"acknowledged": closed}, text, as_json=as_json)
