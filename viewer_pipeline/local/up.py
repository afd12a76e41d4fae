"""`viewer-pipeline up`: the stack until a signal comes, then a stop that leaves nothing unpersisted."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.local.ports import LOOPBACK
from viewer_pipeline.local.stack import Stack
from viewer_pipeline.settings import Settings, without_password

log = logging.getLogger("viewer_pipeline.up")


def run_up(settings: Settings, said: Callable[[str], None]) -> None:
    """Start all, keep it running, stop in order on SIGTERM or SIGINT."""
    started, stop = threading.Event(), threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)  # asked twice: the children end with this process
        stop.set()
        if not started.is_set():
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    stack = Stack(settings)
    stack.start(said)
    started.set()
    try:
        said(_banner(stack))
        stack.watch(stop)
        said("stopping; press Ctrl-C again to stop at once")
        stack.stop_processes(said)
        _flush_what_remains(stack.settings, said)
    finally:
        stack.stop(said)


def _flush_what_remains(settings: Settings, said: Callable[[str], None]) -> None:
    from viewer_pipeline.local.flush_now import run_flush
    from viewer_pipeline.orchestration.instance import open_instance
    from viewer_pipeline.orchestration.ops import FlushMode

    try:
        with open_instance(settings) as instance:
            run = run_flush(instance, FlushMode.sweep, (), "shutdown: what remains")
    except ViewerPipelineError as error:
        said(f"what remains was not flushed and stays in Redis: {error}")
        return
    if run.success:
        said(f"flushed what remained: {run.figures.get('views', 0)} views")
    else:
        said(f"what remains was not flushed and stays in Redis; see run {run.run_id}")


def _banner(stack: Stack) -> str:
    settings = stack.settings
    lines = [
        "",
        f"  Dagster UI   http://{LOOPBACK}:{stack.ui_port}",
        f"  PostgreSQL   {without_password(settings.database_url or '')}",
        f"  Redis        {without_password(settings.redis_url or '')}",
        f"  data, logs   {settings.viewer_home.absolute()} (password of PostgreSQL: postgres.password)",
        "",
        "  Send a view  viewer-pipeline send vod_123",
        "  Look         viewer-pipeline status",
        "  Stop         Ctrl-C",
        "",
    ]
    return "\n".join(lines)
