"""The services of `up`, and which ports its HTTP servers get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from viewer_pipeline.monitoring.bound_socket import bind_socket
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack import postgres_server, redis_server
from viewer_pipeline.stack.command_with_home import command_with_home
from viewer_pipeline.stack.dagster_command_lines import UI_PORT
from viewer_pipeline.stack.kept_ports import KeptPorts, Service, require_free_port
from viewer_pipeline.stack.ports import format_http_url

UI_HOST_OPTION, UI_OPTION, HEALTH_SETTING = "--ui-host", "--ui-port", "HEALTH_CHECK_PORT"
UI = Service("ui", "Dagster's UI", UI_PORT, "")  # its remedy depends on VIEWER_HOME
HEALTH = Service(
    "health",
    "the worker's /health",
    Settings.model_fields["health_check_port"].default,
    f"to choose, set {HEALTH_SETTING} in the environment or in .env",
)
POSTGRES = Service("postgres", "PostgreSQL", postgres_server.DEFAULT_PORT, "for a server of your own, set DATABASE_URL")
REDIS = Service("redis", "Redis", redis_server.DEFAULT_PORT, "for a server of your own, set REDIS_URL")


def require_own_addresses(settings: Settings, ui_host: str) -> None:
    """Check that HEALTH_CHECK_HOST and `ui_host` are addresses of this machine. Raises SettingsError."""
    bind_socket(settings.health_check_host, 0).close()
    bind_socket(ui_host, 0, UI_HOST_OPTION, UI_OPTION).close()


def require_free_chosen_ports(settings: Settings, ui_host: str, ui_port: int | None) -> None:
    """Check that nothing listens on HEALTH_CHECK_PORT and `ui_port`, as far as they are set. Raises SettingsError."""
    if "health_check_port" in settings.model_fields_set:
        require_free_port(HEALTH_SETTING, settings.health_check_port, settings.health_check_host)
    if ui_port is not None:
        require_free_port(UI_OPTION, ui_port, ui_host)


def reserve_health_port(settings: Settings, ports: KeptPorts, *, has_embedded_servers: bool) -> Settings:
    """Return the settings with the port of `/health`.

    Raises SettingsError if HEALTH_CHECK_PORT is set and taken, or its default is taken and all servers are the user's:
    then monitoring watches this port, and would watch another process.
    """
    is_set = "health_check_port" in settings.model_fields_set
    if is_set or not has_embedded_servers:
        ports.reserve_exactly(HEALTH_SETTING, settings.health_check_port, settings.health_check_host)
        return settings
    return settings.copy_unvalidated(health_check_port=ports.reserve(HEALTH, settings.health_check_host))


def reserve_ui_port(settings: Settings, ports: KeptPorts, host: str, port: int | None) -> tuple[Settings, int]:
    """Return the port of the UI, and the settings with its URL unless they have one. The next start has it, too.

    Raises SettingsError if `port` is taken.
    """
    if port is None:
        remedy = f"to choose: `{command_with_home(settings, f'up {UI_OPTION} PORT')}`"
        port = ports.reserve(replace(UI, remedy=remedy), host)
    else:
        ports.keep(UI, port, ports.reserve_exactly(UI_OPTION, port, host))
    updates: dict[str, Any] = {} if settings.dagster_ui_url else {"dagster_ui_url": format_http_url(host, port)}
    return settings.copy_unvalidated(**updates), port
