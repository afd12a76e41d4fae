"""The command `status`."""

from __future__ import annotations

from functools import partial

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.output import echo_result, json_option


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show pending and persisted views, and what stalls.

    Also parked and rejected input, the last flushes, and the checks that fail.
    """
    from viewer_pipeline.monitoring.status import read_status
    from viewer_pipeline.monitoring.status_report import print_status

    pipeline_status = read_status(load_settings_with_running_servers())
    echo_result(pipeline_status.to_dict(), partial(print_status, pipeline_status), as_json=as_json)
