"""The command `worker`."""

from __future__ import annotations

import os
import sys

import click

from viewer_pipeline.broken_stream_tolerance import tolerate_write_errors
from viewer_pipeline.cli.command_settings import load_service_settings


@click.command()
@click.option(
    "--last-flush/--no-last-flush", default=True, show_default=True, help="Flush pending views before the process ends."
)
def worker(last_flush: bool) -> None:
    """Receive messages, fold them into Redis, serve /health.

    Also a status page at /, /ping and /metrics, until SIGTERM.
    """
    from viewer_pipeline.cli.worker_process import run_worker

    tolerate_write_errors("stdout", "stderr")
    settings = load_service_settings()

    def flush(monotonic_deadline: float) -> str:
        if not last_flush:
            return "not asked for"
        from viewer_pipeline.cli.worker_last_flush import run_worker_last_flush  # pandas: 25 MB

        return run_worker_last_flush(settings, monotonic_deadline)

    status = run_worker(settings, flush)
    sys.stderr.flush()
    os._exit(status)  # a thread that waits for a hanging server must not delay the end
