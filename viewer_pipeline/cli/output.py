"""How commands print results and progress, and their option `--json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from shutil import get_terminal_size
from typing import Any

import click

from viewer_pipeline.errors import SettingsError, ViewerPipelineError
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.time_formatting import format_timestamp

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs go to stderr.")


def echo_result(value: Any, text: str | Callable[[], None], *, as_json: bool) -> None:
    """Print the result of a command on stdout: as JSON, or for people, as a text or by the function that prints it."""
    if as_json:
        click.echo(to_json(value))
    elif callable(text):
        text()
    else:
        click.echo(text)


def to_json(value: Any) -> str:
    """Return a result as one line of JSON, with timestamps as everywhere."""
    return json.dumps(value, default=_to_json)


def terminal_width() -> int:
    """Return the columns of the terminal; 80 where stdout is none."""
    return get_terminal_size().columns


def describe_error(error: ViewerPipelineError, better_remedy: str = "") -> str:
    """Return an error as one line, and its remedy, or a better one, as a second one."""
    message = str(error) if isinstance(error, SettingsError) else redact_text(str(error))
    remedy = better_remedy or error.remedy
    return f"error: {message}" + (f"\nremedy: {redact_text(remedy)}" if remedy else "")


def echo_progress(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(text, err=True)


def _to_json(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return format_timestamp(value) if isinstance(value, datetime) else str(value)
