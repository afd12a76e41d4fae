"""The command line. Exit status: 0 done, 1 a check or the work failed, 2 wrong usage or settings."""

from __future__ import annotations

from typing import Any

import click

from viewer_pipeline.broken_stream_tolerance import open_null_device_on_closed_streams
from viewer_pipeline.cli.acknowledge import acknowledge
from viewer_pipeline.cli.adopt import adopt
from viewer_pipeline.cli.backfill import backfill
from viewer_pipeline.cli.baseline import baseline
from viewer_pipeline.cli.bench import bench
from viewer_pipeline.cli.dagster_commands import code_server, daemon, webserver
from viewer_pipeline.cli.demo import demo
from viewer_pipeline.cli.docs import docs
from viewer_pipeline.cli.doctor import doctor
from viewer_pipeline.cli.flush import flush
from viewer_pipeline.cli.grants.command import grants
from viewer_pipeline.cli.healthcheck import healthcheck
from viewer_pipeline.cli.held import held
from viewer_pipeline.cli.migrate import migrate
from viewer_pipeline.cli.option_types import NamedArgument
from viewer_pipeline.cli.output import describe_error
from viewer_pipeline.cli.parked import parked
from viewer_pipeline.cli.reconcile import reconcile
from viewer_pipeline.cli.retire import retire
from viewer_pipeline.cli.send import send
from viewer_pipeline.cli.soak import soak
from viewer_pipeline.cli.status import status
from viewer_pipeline.cli.streams import streams
from viewer_pipeline.cli.up import up
from viewer_pipeline.cli.worker import worker
from viewer_pipeline.errors import PostgresUnavailable, RedisUnavailable, SettingsError, ViewerPipelineError
from viewer_pipeline.home_lock_and_server_urls import remedy_of_embedded_server
from viewer_pipeline.settings_of_running_up import load_settings_and_find_servers

# As `--help` lists them.
SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "On one machine": (up, demo, send),
    "Watch, look up": (status, doctor, docs),
    "Flush, compare, repair": (flush, backfill, reconcile, baseline, parked, held, acknowledge),
    "Install, upgrade, move": (migrate, streams, grants, adopt, retire),
    "Services, for containers and systemd": (worker, code_server, daemon, webserver, healthcheck),
    "Measure": (bench, soak),
}
SERVER_ERRORS: dict[type[ViewerPipelineError], str] = {  # -> the setting of its URL
    RedisUnavailable: "redis_url",
    PostgresUnavailable: "database_url",
}


@click.command("help", add_help_option=False)
@click.argument("words", metavar="[COMMAND]...", nargs=-1, cls=NamedArgument)
@click.pass_context
def show_help(context: click.Context, words: tuple[str, ...]) -> None:
    """Show what `--help` shows, of the program or of COMMAND."""
    assert context.parent is not None, "it is a command of the program"
    context = context.parent
    for word in words:
        if not isinstance(context.command, click.Group):
            raise click.UsageError(f"{context.command_path} has no commands", context)
        _, command, _ = context.command.resolve_command(context, [word])
        assert command is not None, "else click has raised a usage error"
        context = click.Context(command, parent=context, info_name=word)
    click.echo(context.get_help())


class MainGroup(click.Group):
    """Lists commands in sections. Prints errors of this package as a sentence and a remedy, with an exit status.

    Has `help`, which no list contains. Works without standard streams.
    """

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command of this name."""
        return show_help if name == show_help.name else super().get_command(context, name)

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each purpose, with the first sentence of each command."""
        names = max(len(name) for name in self.commands)
        for title, commands in SECTIONS.items():
            rows = [(f"{command.name:<{names}}", command.get_short_help_str(formatter.width)) for command in commands]
            with formatter.section(title):
                formatter.write_dl(rows)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line."""
        open_null_device_on_closed_streams()
        return super().main(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except ViewerPipelineError as error:
            click.echo(describe_error(error, _remedy_of_running_up(error)), err=True)
            context.exit(2 if isinstance(error, SettingsError) else 1)


def _remedy_of_running_up(error: ViewerPipelineError) -> str:
    """Return what to do about an embedded server of the running `up` that does not answer; empty for other errors."""
    setting = SERVER_ERRORS.get(type(error))
    if setting is None or not error.remedy:  # e.g. another run was in the way
        return ""
    settings = load_settings_and_find_servers()
    return remedy_of_embedded_server(settings.viewer_home, setting, getattr(settings, setting))


@click.group(
    cls=MainGroup,
    commands=[command for commands in SECTIONS.values() for command in commands],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(None, "-V", "--version", package_name="viewer-pipeline")
def main() -> None:
    """Carry view counts from Redis to PostgreSQL, in batches, exactly once."""
