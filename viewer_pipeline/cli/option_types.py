"""Types of options and arguments that several commands share."""

from __future__ import annotations

import click


class NamedArgument(click.Argument):
    """An argument that errors call by its name alone: `KIND`, also where the usage has `[KIND]...`."""

    def get_error_hint(self, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return the name in quotes."""
        return repr((self.metavar or self.name.upper()).strip("[]."))


class Number(click.IntRange):
    """An integer, NUMBER in `--help`."""

    name = "number"


class Seconds(click.FloatRange):
    """A duration, SECONDS in `--help`."""

    name = "number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 - click's signature
        """Return SECONDS."""
        return "SECONDS"


class Port(click.IntRange):
    """A TCP port, PORT in `--help`."""

    name = "port"


class VodId(click.ParamType[str]):
    """An id that can be stored, VOD_ID in `--help`."""

    name = "vod_id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id. Raises BadParameter."""
        from viewer_pipeline.flush.counter_validation import id_error

        if reason := id_error(value):
            self.fail(reason, param, ctx)
        return value

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return what is expected."""
        return "Expected the id of a VOD, such as vod_123."


PORT = Port(1, 65535)
VOD_ID = VodId()


def parse_host_and_port(value: str | tuple[str, int]) -> tuple[str, int]:
    """Parse HOST:PORT."""
    if isinstance(value, tuple):  # click parses a default twice
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise click.BadParameter(f"{value!r}: expected HOST:PORT")
    return host, int(port)
