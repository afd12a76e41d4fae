"""How commands print results and progress, and their option `--json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

import click

from viewer_pipeline.time_formatting import format_timestamp

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs go to stderr.")


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


def _to_json(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return format_timestamp(value) if isinstance(value, datetime) else str(value)
