"""The settings of a command: those of the environment, and the servers that `up` runs where no URL is set."""

from __future__ import annotations

import logging

from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings, load_settings

log = logging.getLogger("viewer_pipeline.cli")


def load_settings_with_running_servers(*, warn_of_dropped: bool = False) -> Settings:
    """Read the settings. A URL that is not set becomes that of the server which `up` runs on this VIEWER_HOME.

    `warn_of_dropped`: log the parameters of database URLs that are dropped; a process does that once, at its start.
    """
    from viewer_pipeline.stack.home_directory import read_urls_of_running_servers

    settings = load_settings()
    if settings.database_url is None or settings.redis_url is None:
        urls = read_urls_of_running_servers(settings.viewer_home)
        unset = {name: url for name, url in urls.items() if getattr(settings, name) is None}
        settings = settings.changed(**unset)
    if warn_of_dropped:
        warn_of_dropped_parameters(settings)
    return settings


def require_responding_servers(settings: Settings) -> None:
    """Check that both servers respond and the schema exists, before Dagster is imported: an error comes early, alone.

    Raises RedisUnavailable, PostgresUnavailable, SchemaMissing.
    """
    from viewer_pipeline.flush.ledger_reads import last_flush
    from viewer_pipeline.flush.stores import Stores

    settings.require_database_url()  # reported first
    with Stores.open(settings) as stores, stores.ledger.connect(any_server=True) as connection:
        stores.redis.changed_set_size_and_oldest()
        last_flush(connection)


def warn_of_dropped_parameters(settings: Settings) -> None:
    """Log the parameters of the database URLs that have no meaning here."""
    if dropped := settings.dropped_parameters():
        log.warning(event("unknown parameters of a database URL are dropped", **dropped))
