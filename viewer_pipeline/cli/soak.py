"""The command `soak`: faults under traffic."""

from __future__ import annotations

import logging
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click

from viewer_pipeline.cli.demo_and_soak_setup import configure_logging_and_sigterm
from viewer_pipeline.cli.output import echo_progress, echo_result, json_option
from viewer_pipeline.settings import load_settings
from viewer_pipeline.text_formatting import pluralize


@click.command()
@click.option(
    "--minutes",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0.05),
    metavar="MINUTES",
    help="How long to inject faults.",
)
@click.option(
    "--seed", type=int, metavar="NUMBER", help="Seed of a run to repeat. Default: a new one, which is printed."
)
@click.option(
    "--history",
    type=click.File("wb", lazy=False),
    metavar="FILE",
    help="Write the views sent, the views stored and the faults to this file, for `python -m tools.judge`.",
)
@json_option
def soak(minutes: float, seed: int | None, history: BinaryIO | None, as_json: bool) -> None:
    """Kill and fail over everything; check every view counts once.

    Two pipelines are in full traffic meanwhile. Processes are paused as well.
    """
    from viewer_pipeline.bench.soak import run_soak

    configure_logging_and_sigterm(logging.CRITICAL)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    echo_progress(f"seed {seed}")
    report = run_soak(load_settings(), minutes, seed, echo_progress, Path(history.name) if history else None)
    kills, pauses = sum(report.kills.values()), sum(report.pauses.values())
    lost, duplicated = sum(report.lost.values()), sum(report.duplicated.values())
    text = f"seed {report.seed}: {pluralize(kills, 'kill')}, {pluralize(pauses, 'pause')},"
    text += f" {pluralize(report.failovers, 'failover')}; sent {report.sent}"
    text += f" = persisted {report.persisted} + in Redis {report.pending}: lost {lost}, duplicated {duplicated}"
    echo_result(asdict(report) | {"exact": report.is_exact}, text, as_json=as_json)
    if not report.is_exact:
        raise SystemExit(1)
