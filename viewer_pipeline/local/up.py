"""`viewer-pipeline up`: the stack until a signal comes, then a stop in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from viewer_pipeline.local.ports import LOOPBACK
from viewer_pipeline.local.stack import Stack
from viewer_pipeline.settings import Settings, without_password


def run_up(settings: Settings, said: Callable[[str], None], ui_host: str = LOOPBACK) -> None:
    """Start all, keep it running, stop in order on SIGTERM or SIGINT; exit 1 if the worker could not."""
    started, stop = threading.Event(), threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)  # asked twice: the children end with this process
        stop.set()
        if not started.is_set():
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    stack = Stack(settings, ui_host=ui_host)
    stack.start(said)
    started.set()
    try:
        said(_banner(stack))
        stack.watch(stop)
        said("stopping; press Ctrl-C again to stop at once")
    finally:
        status = stack.stop(said)
    if status:
        raise SystemExit(1)


def _banner(stack: Stack) -> str:
    settings = stack.settings
    lines = [
        "",
        f"  Dagster UI   http://{stack.ui_host}:{stack.ui_port}",
        f"  Health       http://{settings.health_check_host}:{settings.health_check_port}/health",
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
