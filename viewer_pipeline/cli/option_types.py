"""Types of options that several commands share."""

from __future__ import annotations

import click


class Number(click.IntRange):
    """An integer, NUMBER in `--help`."""

    name = "number"


class Seconds(click.FloatRange):
    """A duration, SECONDS in `--help`."""

    name = "seconds"


class Port(click.IntRange):
    """A TCP port, PORT in `--help`."""

    name = "port"


PORT = Port(1, 65535)


def parse_host_and_port(value: str | tuple[str, int]) -> tuple[str, int]:
    """Parse HOST:PORT."""
    if isinstance(value, tuple):  # click parses a default twice
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"{value!r}: expected HOST:PORT")
    return host, int(port)
