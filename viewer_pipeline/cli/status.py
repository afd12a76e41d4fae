"""The command `status`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.option_types import Seconds
from viewer_pipeline.cli.output import echo_result, json_option, terminal_width

WATCH_SECONDS = 2.0


@click.command()
@click.option(
    "--watch",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=Seconds(1, 3600),
    metavar="[SECONDS]",
    help=f"Show it live, until Ctrl-C; every {WATCH_SECONDS:.0f} s where no SECONDS follow.",
)
@json_option
def status(watch: float | None, as_json: bool) -> None:
    """Show pending and persisted views, and what stalls.

    Also parked and rejected input, the last flushes, and the checks that fail. Exit status 1 if a server cannot be
    read; what the other one holds is shown.
    """
    from viewer_pipeline.monitoring.status import read_status
    from viewer_pipeline.monitoring.status_report import render_status

    settings = load_settings_with_running_servers()
    if watch is not None:
        from viewer_pipeline.cli.status_watch import watch_status

        watch_status(settings, watch, as_json=as_json)
        return
    pipeline_status = read_status(settings)
    echo_result(pipeline_status.to_dict(), render_status(pipeline_status, terminal_width()), as_json=as_json)
    if pipeline_status.failures:
        raise SystemExit(1)
