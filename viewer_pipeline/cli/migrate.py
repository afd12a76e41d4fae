"""The command `migrate`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.output import echo_progress, echo_result, json_option


@click.command()
@json_option
def migrate(as_json: bool) -> None:
    """Create or upgrade the schema `viewer`, and state in Redis.

    Safe to repeat and to run concurrently. To upgrade from version 0.1.0, stop all its processes first.
    """
    from viewer_pipeline.stack.postgres_and_redis_migration import migrate_postgres_and_redis

    settings = load_settings_with_running_servers()
    migration = migrate_postgres_and_redis(settings, echo_progress)
    if migration.before == migration.after:
        text = f"schema viewer is at revision {migration.after} already"
    else:
        text = f"schema viewer: {migration.before or 'nothing'} -> {migration.after}"
    if migration.redis_moved:
        text += f"\nRedis: the state of version 0.1.0 belongs to the prefix {settings.counter_prefix!r} now"
    echo_result(migration, text, as_json=as_json)
