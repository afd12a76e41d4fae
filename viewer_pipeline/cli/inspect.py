"""Commands that show the state of the pipeline, and close its incidents: status, doctor, acknowledge."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import command_settings
from viewer_pipeline.cli.options import as_json, echo_json, echo_progress
from viewer_pipeline.flush.incidents import KINDS, Kind


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show what is pending, settled, parked and rejected, which processes run, and why nothing was done."""
    from viewer_pipeline.monitoring.status import read_status, show_status

    state = read_status(command_settings())
    if as_json:
        echo_json(state)
    else:
        show_status(state)


@click.command()
@click.option(
    "--seconds", default=10.0, show_default=True, type=click.FloatRange(0.1, 3600), help="How long to listen."
)
@as_json
def doctor(seconds: float, as_json: bool) -> None:
    """Look at settings, servers, keys, producers and Dagster; say what is wrong, why it matters, and what to do.

    Listens to the producers to tell which PUBSUB_MODE they need. Writes nothing. Exit status 1 if something must be
    fixed.
    """
    from viewer_pipeline.monitoring.doctor.examine import Doctor
    from viewer_pipeline.monitoring.doctor.finding import verdict
    from viewer_pipeline.monitoring.doctor.show import show_findings

    patient = Doctor(command_settings(), seconds)
    if not as_json:
        echo_progress(f"looking, and listening to the producers for {seconds:g} s …")
    findings = patient.examine()
    if as_json:
        shown = [finding.shown() for finding in findings]
        echo_json({"verdict": verdict(findings), "findings": shown})
    else:
        show_findings(findings)
    if verdict(findings) == "problem":
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
    if as_json:
        echo_json({"acknowledged": closed})
    else:
        click.echo(f"acknowledged {closed} incidents" if closed else "no incident was open")
