"""The command `grants`."""

from __future__ import annotations

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.sql_identifiers import MAX_BYTES


def require_role_name(_context: click.Context, _parameter: click.Parameter, role: str) -> str:
    """Return a name that both servers take. Raises BadParameter."""
    if not role or "\x00" in role or len(role.encode()) > MAX_BYTES:
        raise click.BadParameter(f"{role!r}: expected a name of 1 to {MAX_BYTES} bytes")
    if any(character.isspace() for character in role):
        raise click.BadParameter(f"{role!r}: expected a name without blanks, which Redis does not take")
    return role


@click.command()
@click.option("--target", metavar="TABLE", help="The target table: `table` or `schema.table`. Default: TARGET_TABLE.")
@click.option(
    "--role",
    default="viewer_pipeline",
    show_default=True,
    callback=require_role_name,
    metavar="NAME",
    help="Name of the role, and of the Redis user.",
)
@json_option
def grants(target: str | None, role: str, as_json: bool) -> None:
    """Print the rights that a role needs, as SQL and a Redis ACL.

    Only the rights needed here. Connects to nothing.
    """
    from viewer_pipeline.cli.grants.role_grants import build_grants, render_sql_and_redis_acl
    from viewer_pipeline.target.table import TargetNames

    settings = load_settings_with_running_servers()
    if target is not None:
        settings = settings.copy_unvalidated(target_table=target)
    try:
        names = TargetNames.of(settings)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--target'") from None
    result = build_grants(settings, role, names)
    echo_result(result, render_sql_and_redis_acl(result), as_json=as_json)
