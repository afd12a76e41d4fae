"""`viewer-pipeline up`: runs the stack until a signal arrives, then stops it in order."""

from __future__ import annotations

from collections.abc import Callable

from viewer_pipeline.flush.adoption import AdoptionMode
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.stack import Stack
from viewer_pipeline.stop_signals import StopRequest, install_stop_signal_handlers


def run_stack_until_signal(
    settings: Settings, on_progress: Callable[[str], None], ui_host: str = LOOPBACK, adopt: AdoptionMode | None = None
) -> None:
    """Run the stack; stop it in order on SIGTERM, SIGINT or SIGHUP. Exit status 1 if the worker failed to.

    A second signal ends it at once, with all its processes.
    """
    started, stop = False, StopRequest()

    def begin_stop(number: int) -> None:
        stop.set()
        if not started:
            raise SystemExit(128 + number)

    install_stop_signal_handlers(begin_stop)
    stack = Stack(settings, ui_host=ui_host, adopt=adopt)
    try:
        stack.start(on_progress)
        started = True
        on_progress(_banner(stack))
        stack.restart_ended_until(stop)
        on_progress("stopping; press Ctrl-C again to stop at once")
    finally:
        status = stack.stop(on_progress)
    if status:
        raise SystemExit(1)


def _banner(stack: Stack) -> str:
    settings = stack.settings
    return f"""
  Dagster UI   http://{stack.ui_host}:{stack.ui_port}
  Health       http://{settings.health_check_host}:{settings.health_check_port}/health
  PostgreSQL   {redact_text(settings.database_url or "")}
  Redis        {redact_text(settings.redis_url or "")}
  data, logs   {settings.viewer_home.absolute()} (password of PostgreSQL: postgres.password)

  Send a view  viewer-pipeline send vod_123
  Status       viewer-pipeline status
  Stop         Ctrl-C
"""
