"""The command `healthcheck`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.option_types import PORT
from viewer_pipeline.home_lock_and_server_urls import read_settings_of_running_up


@click.command()
@click.argument(
    "role", type=click.Choice(["worker", "code-server", "daemon", "webserver"]), default="worker", metavar="[ROLE]"
)
@click.option("--port", type=PORT, help="Port it listens on. Default: the usual port of this role.")
def healthcheck(role: str, port: int | None) -> None:
    """Check that one process of this machine works.

    ROLE is worker (default), code-server, daemon or webserver. Exit status 0 or 1, for containers.
    """
    from viewer_pipeline.cli.container_healthchecks import ROLES

    settings = load_settings_with_running_servers(warn=False)
    if role == "worker" and port is None:
        port = read_settings_of_running_up(settings.viewer_home).get("health_check_port")
    click.echo(ROLES[role](settings, port))
