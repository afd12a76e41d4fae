"""The command `doctor`."""

from __future__ import annotations

from functools import partial

import click

from viewer_pipeline.checks import checks_to_dict, worst_status
from viewer_pipeline.cli.command_settings import (
    load_settings_with_running_servers,
    warn_of_differences_from_running_up,
    warn_of_skipped_lines,
)
from viewer_pipeline.cli.option_types import Seconds
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.time_formatting import format_timestamp


@click.command()
@click.option(
    "--watch-producers",
    type=Seconds(1, 300),
    help="Watch Redis with MONITOR, which slows it down, to find out which PUBSUB_MODE the producers need.",
)
@json_option
def doctor(watch_producers: float | None, as_json: bool) -> None:
    """Check settings, servers and Dagster; report remedies.

    Keys and producers as well; then what this set-up guarantees under each kind of fault. Changes nothing. Exit status
    1 if a check is unhealthy.
    """
    from viewer_pipeline.monitoring.doctor.guarantee import derive_guarantee, guarantee_to_dict
    from viewer_pipeline.monitoring.doctor.print_doctor_report import print_report
    from viewer_pipeline.monitoring.doctor.run_checks import run_doctor_checks

    settings = load_settings_with_running_servers(warn=False)
    warn_of_skipped_lines()
    warn_of_differences_from_running_up()
    results = run_doctor_checks(settings, watch_producers or 0.0)
    guarantee, status = derive_guarantee(results, settings), worst_status(results)
    report = {
        "status": status,
        "timestamp": format_timestamp(),
        "checks": checks_to_dict(results),
        "guarantee": guarantee_to_dict(guarantee),
    }
    echo_result(report, partial(print_report, results, guarantee=guarantee), as_json=as_json)
    if status == "unhealthy":
        raise SystemExit(1)
