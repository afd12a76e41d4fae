"""Shared options of commands, and how commands print results."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import click

from viewer_pipeline.standard_streams import tolerate_write_errors
from viewer_pipeline.stop_signals import handle_stop_signals
from viewer_pipeline.timestamps import format_timestamp

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs go to stderr.")
PORT = click.IntRange(1, 65535)


def echo_result(value: Any, text: str | Callable[[], None], *, as_json: bool) -> None:
    """Print the result of a command on stdout: as JSON, or for people, as a text or by the function that prints it."""
    if as_json:
        click.echo(json.dumps(value, default=_to_json))  # timestamps as everywhere
    elif callable(text):
        text()
    else:
        click.echo(text)


def echo_progress(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(text, err=True)


def prepare_throwaway_stack(log_level: int) -> None:
    """Prepare this process for a stack that it runs itself: SIGTERM leaves it, so that it is stopped in order."""

    def leave(number: int) -> NoReturn:
        raise SystemExit(128 + number)

    tolerate_write_errors("stderr")
    logging.basicConfig(level=log_level, stream=sys.stderr)
    handle_stop_signals(leave, leave, [signal.SIGTERM])


def host_and_port(value: str | tuple[str, int]) -> tuple[str, int]:
    """Parse HOST:PORT."""
    if isinstance(value, tuple):  # click parses a default twice
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"{value!r}: expected HOST:PORT")
    return host, int(port)


def _to_json(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return format_timestamp(value) if isinstance(value, datetime) else str(value)
