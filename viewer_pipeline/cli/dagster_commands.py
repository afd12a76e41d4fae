"""The commands `code-server`, `daemon` and `webserver`: each runs one process of Dagster, for containers."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_service_settings
from viewer_pipeline.cli.option_types import PORT, parse_host_and_port
from viewer_pipeline.home_lock_and_server_urls import require_no_up_in_home_directory
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_command_lines import CODE_SERVER_PORT, UI_PORT
from viewer_pipeline.stack.ports import LOOPBACK

code_server_address = click.option(
    "--code-server",
    type=parse_host_and_port,
    metavar="HOST:PORT",
    default=f"{LOOPBACK}:{CODE_SERVER_PORT}",
    show_default=True,
    help="Address of the code server.",
)


@click.command("code-server")
@click.option(
    "--host", default=LOOPBACK, show_default=True, metavar="ADDRESS", help="Address to listen on. It has no login."
)
@click.option("--port", default=CODE_SERVER_PORT, show_default=True, type=PORT, help="Port to listen on.")
def code_server(host: str, port: int) -> None:
    """Run Dagster's code server, which runs the flushes.

    Exactly one; `up` starts it.
    """
    settings = _load_settings()
    from viewer_pipeline.stack.daemon_lock import require_no_up_on_servers
    from viewer_pipeline.stack.dagster_command_lines import exec_code_server

    require_no_up_on_servers(settings)
    exec_code_server(settings, host, port)


@click.command()
@code_server_address
def daemon(code_server: tuple[str, int]) -> None:
    """Run Dagster's daemon: sensor, schedules, queue of runs.

    Exactly one; `up` starts it.
    """
    settings = _load_settings()
    from viewer_pipeline.stack.daemon_lock import require_no_up_on_servers
    from viewer_pipeline.stack.dagster_command_lines import exec_daemon

    require_no_up_on_servers(settings)
    exec_daemon(settings, code_server)


@click.command()
@click.option(
    "--host", default=LOOPBACK, show_default=True, metavar="ADDRESS", help="Address to listen on. The UI has no login."
)
@click.option("--port", default=UI_PORT, show_default=True, type=PORT, help="Port to listen on.")
@code_server_address
def webserver(host: str, port: int, code_server: tuple[str, int]) -> None:
    """Run Dagster's UI.

    `up` starts it.
    """
    settings = _load_settings()
    from viewer_pipeline.stack.dagster_command_lines import exec_webserver

    exec_webserver(settings, code_server, host, port)


def _load_settings() -> Settings:
    """Read the settings of a process that must not run beside `up`. Raises UpRunsDagster."""
    settings = load_service_settings()
    require_no_up_in_home_directory(settings.viewer_home)
    return settings
