"""Shared options of commands, and how commands print results."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from viewer_pipeline.timestamps import format_timestamp

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs go to stderr.")
PORT = click.IntRange(1, 65535)


def echo_json(value: Any) -> None:
    """Print one JSON object on stdout; timestamps as everywhere."""
    click.echo(json.dumps(value, default=_to_json))


def echo_result(value: Any, text: str, *, as_json: bool) -> None:
    """Print the result of a command on stdout, as JSON or as text."""
    if as_json:
        echo_json(value)
    else:
        click.echo(text)


def echo_progress(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(text, err=True)


def stop_by_exit(number: int) -> None:
    """Leave the running stack, so that it is stopped in order; in a signal handler."""
    raise SystemExit(128 + number)


def host_and_port(value: str | tuple[str, int]) -> tuple[str, int]:
    """Parse HOST:PORT."""
    if isinstance(value, tuple):  # click parses a default twice
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"{value!r}: expected HOST:PORT")
    return host, int(port)


def _to_json(value: object) -> str:
    return format_timestamp(value) if isinstance(value, datetime) else str(value)
