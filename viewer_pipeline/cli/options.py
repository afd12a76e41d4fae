"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; logs go to stderr.")


PORT = click.IntRange(1, 65535)


def parse_host_and_port(value: str | tuple[str, int]) -> tuple[str, int]:
    """Parse HOST:PORT."""
    if isinstance(value, tuple):  # click parses a default twice
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"{value!r}: expected HOST:PORT")
    return host, int(port)
