"""The settings of a command: those of the environment; what it does not set is that of the running `up`."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from viewer_pipeline.env_file import find_skipped_lines
from viewer_pipeline.logs import configure_stderr_logging, event
from viewer_pipeline.settings import Settings, is_child_process, unknown_variables
from viewer_pipeline.settings_of_running_up import find_differences_from_running_up, load_settings_and_find_servers

log = logging.getLogger("viewer_pipeline.cli")


def load_settings_with_running_servers(*, warn: bool = True) -> Settings:
    """Read the settings. What is not set becomes what the `up` on this VIEWER_HOME uses.

    `warn`: log what has no effect in them, and what differs from that `up`.
    """
    settings = load_settings_and_find_servers()
    if warn:
        warn_of_ineffective_settings(settings)
        warn_of_differences_from_running_up()
    return settings


def load_service_settings() -> Settings:
    """Read the settings as a process does that runs until it is stopped: its lines are logged as they define."""
    settings = load_settings_with_running_servers(warn=False)
    configure_stderr_logging(settings)
    warn_of_ineffective_settings(settings)
    warn_of_differences_from_running_up()
    return settings


def warn_of_ineffective_settings(settings: Settings) -> None:
    """Log, once, skipped lines of `.env`, unknown variables and dropped parameters of URLs.

    A child process does not repeat its parent.
    """
    if is_child_process():
        return
    warn_of_skipped_lines()
    unknown = unknown_variables()
    for variable in unknown:
        if variable.meant:
            places = {"found_in": variable.place, "probably_meant": variable.meant}
            log.warning(event("unknown_setting", variable=variable.name, **places))
    if others := [variable.name for variable in unknown if not variable.meant]:
        log.warning(event("unknown_names_in_env_file", names=", ".join(others)))
    if dropped := settings.dropped_parameters():
        log.warning(event("database_url_parameters_dropped", **dropped))
    if settings.otel_exporter_otlp_endpoint and not _is_otel_installed():
        log.warning(event("otel_not_installed", remedy="install viewer-pipeline[otel], or unset the endpoint"))
    if ignored := settings.ignored_redis_parameters():
        log.info(event("redis_url_parameters_ignored", ignored=", ".join(ignored)))


def warn_of_skipped_lines() -> None:
    """Log the lines of `.env` that set nothing, once; none of them names a setting, which would be an error."""
    if lines := find_skipped_lines():
        log.warning(event("env_file_lines_skipped", lines=", ".join(map(str, lines))))


def warn_of_differences_from_running_up() -> None:
    """Log the settings that this environment has and that the running `up` of this VIEWER_HOME has otherwise."""
    for difference in find_differences_from_running_up():
        log.warning(
            event(
                "setting_differs_from_running_up",
                variable=difference.variable,
                value=difference.value,
                value_of_running_up=difference.value_of_running_up,
            )
        )


def _is_otel_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # not even the package above it
        return False


def require_responding_servers(settings: Settings) -> None:
    """Check that both servers respond and the schema exists, before Dagster is imported: an error comes early, alone.

    Raises RedisUnavailable, PostgresUnavailable, SchemaMissing.
    """
    from viewer_pipeline.flush.ledger import Ledger
    from viewer_pipeline.flush.open_store import open_store
    from viewer_pipeline.stores.redis import START_SECONDS, connect

    settings.require_database_url()  # reported first
    with connect(settings.require_redis_url(), seconds=START_SECONDS, retries=1) as client:
        open_store(client, settings).changed_set_size_and_oldest()
    ledger = Ledger.of(settings)
    with ledger.connect(any_server=True) as connection:
        ledger.last_flush(connection)
