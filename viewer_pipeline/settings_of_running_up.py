"""The settings of a command: those of its environment; where it sets none, those of the `up` of this VIEWER_HOME.

Without that, `send` or `flush` in another terminal could use another prefix, mode or time zone than the running `up`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.home_lock_and_server_urls import SETTINGS, read_settings_of_running_up
from viewer_pipeline.redaction import redact_url
from viewer_pipeline.settings import Settings, is_child_process, load_settings

SERVERS = ("database_url", "redis_url")
FOUND = (*SERVERS, "dagster_ui_url")  # what `up` has started, if it was not set
URLS = (
    *SERVERS,
    "dagster_database_url",
    "celery_broker_url",
)  # of the user's own servers, which stay secret: recorded without password
# Of one process: another one may have others.
OF_A_PROCESS = (
    "health_check_port",
    "health_check_host",
    "log_level",
    "log_format",
    "alert_webhook_url",
    "otel_exporter_otlp_endpoint",
    "dagster_ui_url",
    "dagster_home",
    "viewer_home",
    "warm_runs",
    "shutdown_timeout_ms",
)
SHARED = tuple(name for name in Settings.model_fields if name not in (*URLS, *OF_A_PROCESS))
NOT_SET = "not set"


class SettingDifference(NamedTuple):
    """A setting whose value in this environment is not the one that the running `up` has, both without passwords."""

    variable: str
    value: str
    value_of_running_up: str


def settings_for_servers_file(settings: Settings) -> dict[str, str | None]:
    """Return what `up` records of its settings for other commands, as text; None for those without a value."""
    return _texts(settings, SHARED) | {name: url and redact_url(url) for name, url in _texts(settings, URLS).items()}


def load_settings_and_find_servers() -> Settings:
    """Read the settings. Those that are not set become those of the `up` that runs on this VIEWER_HOME.

    Of a command whose own URLs lead to other servers than those of that `up`, only URLs that are not set do. A child
    process has all settings already. Raises SettingsError.
    """
    settings = load_settings()
    not_found = [name for name in FOUND if getattr(settings, name) is None]
    if is_child_process() and not not_found:
        return settings
    running = read_settings_of_running_up(settings.viewer_home)
    if not is_child_process() and not _find_url_differences(settings, running, SERVERS):
        recorded = running.get(SETTINGS, {})
        names = [name for name in SHARED if name not in settings.model_fields_set and recorded.get(name) is not None]
        settings = load_settings(**{name: recorded[name] for name in names})
    return settings.copy_unvalidated(**{name: running[name] for name in not_found if name in running})


def find_differences_from_running_up() -> list[SettingDifference]:
    """Return the settings of this environment that differ from those of the running `up`; none where none runs.

    If servers differ, these alone: then the others are not compared.
    """
    settings = load_settings()
    running = read_settings_of_running_up(settings.viewer_home)
    if is_child_process() or SETTINGS not in running:
        return []
    if servers := _find_url_differences(settings, running, SERVERS):
        return servers
    recorded = running[SETTINGS]
    shared = _texts(settings, [name for name in SHARED if name in settings.model_fields_set])
    return [
        *_find_url_differences(settings, running, ("dagster_database_url",), or_missing=True),
        *(
            SettingDifference(name.upper(), str(value), recorded[name] or NOT_SET)
            for name, value in shared.items()
            if name in recorded and value != recorded[name]
        ),
    ]


def remedy_of_missing_worker(settings: Settings) -> str:
    """Return what to do where no worker receives messages. An `up` of this VIEWER_HOME restarts its own."""
    running = read_settings_of_running_up(settings.viewer_home)
    if running and not _find_url_differences(settings, running, ("redis_url",)):
        return "none if it ended: `up` starts its worker again within seconds; if it hangs, end it"
    return f"start `{command_to_type('worker')}` or `{command_to_type('up')}`"


def _texts(settings: Settings, names: tuple[str, ...] | list[str]) -> dict[str, str | None]:
    values = {name: getattr(settings, name) for name in names}
    return {name: None if value is None else str(value) for name, value in values.items()}


def _find_url_differences(
    settings: Settings, running: dict[str, Any], names: tuple[str, ...], *, or_missing: bool = False
) -> list[SettingDifference]:
    """Compare URLs without their passwords. `or_missing`: also one that only the running `up` has."""
    recorded = running.get(SETTINGS, {})
    differences = []
    for name, url in _texts(settings, names).items() if recorded else ():
        here = url and redact_url(url)
        own = running.get(name)
        there = redact_url(own) if own else recorded.get(name)
        if here != there and (here or or_missing):
            differences.append(SettingDifference(name.upper(), here or NOT_SET, there or NOT_SET))
    return differences
