"""`viewer-pipeline up`: runs the stack until a signal arrives, then stops it in order."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable

from viewer_pipeline.flush.adoption import AdoptionMode
from viewer_pipeline.logs import event
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.command_with_home import command_with_home
from viewer_pipeline.stack.ports import LOOPBACK, format_http_url
from viewer_pipeline.stack.stack import Stack
from viewer_pipeline.stop_signals import StopRequest, install_stop_signal_handlers

log = logging.getLogger("viewer_pipeline.up")

LABEL, WIDTH = 13, 80  # characters of the banner: a label, and a line


def run_stack_until_signal(
    settings: Settings,
    on_progress: Callable[[str], None],
    *,
    ui_host: str = LOOPBACK,
    ui_port: int | None = None,
    adopt: AdoptionMode | None = None,
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
    stack = Stack(settings, ui_host=ui_host, ui_port=ui_port, adopt=adopt)
    try:
        stack.start(on_progress)
        started = True
        if settings.log_format == "json":
            _log_addresses(stack)
        else:
            on_progress(_banner(stack, owns_postgres=settings.database_url is None))
        stack.restart_ended_until(stop)
        on_progress("stopping; press Ctrl-C again to stop at once")
    finally:
        status = stack.stop(on_progress)
    if status:
        on_progress("stopped; the worker failed, the reason is above")
        raise SystemExit(1)
    on_progress("stopped")


def _log_addresses(stack: Stack) -> None:
    """Log what the banner has: with LOG_FORMAT=json, each line is JSON."""
    settings, ui_address = stack.settings, stack.ui_address
    assert ui_address is not None, "`up` has a UI"
    worker = format_http_url(settings.health_check_host, settings.health_check_port)
    log.info(
        event(
            "up_started",
            dagster_ui=format_http_url(*ui_address),
            status_page=f"{worker}/",
            health=f"{worker}/health",
            postgres=settings.database_url,
            redis=settings.redis_url,
            home=settings.viewer_home.absolute(),
        )
    )
    for text in stack.port_warnings:
        log.warning(event("port_replaced", message=text))


def _banner(stack: Stack, *, owns_postgres: bool) -> str:
    settings, ui_address = stack.settings, stack.ui_address
    assert ui_address is not None, "`up` has a UI"
    password = " (password of PostgreSQL: postgres.password)" if owns_postgres else ""
    worker = format_http_url(settings.health_check_host, settings.health_check_port)
    rows = [
        ("Dagster UI", format_http_url(*ui_address)),
        ("Status page", f"{worker}/"),
        ("Health", f"{worker}/health"),
        ("PostgreSQL", redact_text(settings.database_url or "")),
        ("Redis", redact_text(settings.redis_url or "")),
        ("data, logs", f"{settings.viewer_home.absolute()}{password}"),
        ("", ""),
        ("Send a view", command_with_home(settings, "send vod_123")),
        ("Status", command_with_home(settings, "status")),
        ("Stop", "Ctrl-C"),
    ]
    warnings = [
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=f"  {'Warning':{LABEL}}",
            subsequent_indent=" " * (LABEL + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for text in stack.port_warnings
    ]
    return "\n".join(["", *(f"  {label:{LABEL}}{text}".rstrip() for label, text in rows), "", *warnings])
