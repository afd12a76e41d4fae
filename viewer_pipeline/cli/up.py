"""The command `up`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from viewer_pipeline.broken_stream_tolerance import tolerate_write_errors
from viewer_pipeline.cli.command_settings import warn_of_ineffective_settings
from viewer_pipeline.cli.option_types import PORT
from viewer_pipeline.cli.output import echo_progress
from viewer_pipeline.logs import configure_stderr_logging, event
from viewer_pipeline.settings import load_settings
from viewer_pipeline.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from viewer_pipeline.flush.adoption import AdoptionMode  # imports pandas, which most commands do not need

log = logging.getLogger("viewer_pipeline.up")


@click.command()
@click.option(
    "--ui-host",
    default=LOOPBACK,
    show_default=True,
    metavar="ADDRESS",
    help="Address of Dagster's UI. It has no login.",
)
@click.option("--ui-port", type=PORT, help="Its port. Default: that of the latest start, else 3000.")
@click.option(
    "--adopt",
    type=click.Choice(["continue", "settle-newer", "from-here"]),
    help="First give the counters in Redis to this database, as the command `adopt` does.",
)
def up(ui_host: str, ui_port: int | None, adopt: AdoptionMode | None) -> None:
    """Run everything in the foreground: servers, Dagster, worker.

    PostgreSQL and Redis are embedded where no URL of them is set. The schema is migrated first. Ctrl-C flushes what is
    pending and stops. With LOG_FORMAT=json, each line is an event.
    """
    from viewer_pipeline.stack.up import run_stack_until_signal

    tolerate_write_errors("stdout", "stderr")
    settings = load_settings()
    configure_stderr_logging(settings)
    warn_of_ineffective_settings(settings)
    on_progress = _log_progress if settings.log_format == "json" else echo_progress
    run_stack_until_signal(settings, on_progress, ui_host=ui_host, ui_port=ui_port, adopt=adopt)


def _log_progress(text: str) -> None:
    log.info(event("progress", message=text))
