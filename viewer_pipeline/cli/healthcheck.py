"""The command `healthcheck`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.option_types import PORT, NamedArgument


@click.command()
@click.argument(
    "role",
    cls=NamedArgument,
    type=click.Choice(["worker", "code-server", "daemon", "webserver"]),
    default="worker",
    metavar="[ROLE]",
)
@click.option("--port", type=PORT, help="Port it listens on. Default: where `up` has it, else the usual port.")
def healthcheck(role: str, port: int | None) -> None:
    """Check that one process of this machine works.

    ROLE is worker (default), code-server, daemon or webserver. Exit status 0 or 1, for containers.
    """
    from viewer_pipeline.cli.container_healthchecks import ROLES, find_address

    settings = load_settings_with_running_servers(warn=False)
    click.echo(ROLES[role](settings, find_address(settings, role, port)))
