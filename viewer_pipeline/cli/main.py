"""The command line. Exit status: 0 done, 1 a check or the work failed, 2 wrong usage or settings."""

from __future__ import annotations

from typing import Any

import click

from viewer_pipeline.cli import bench, flush, history, inspect, pipelines, processes, reconcile, stack, target
from viewer_pipeline.errors import SettingsError, ViewerPipelineError
from viewer_pipeline.redaction import without_password
from viewer_pipeline.standard_streams import open_closed_streams

COMMANDS: tuple[click.Command, ...] = (
    stack.up,
    stack.demo,
    stack.migrate,
    pipelines.adopt,
    pipelines.retire,
    processes.worker,
    processes.code_server,
    processes.daemon,
    processes.webserver,
    processes.healthcheck,
    flush.flush,
    history.backfill,
    inspect.status,
    inspect.doctor,
    target.grants,
    target.parked,
    reconcile.reconcile,
    history.baseline,
    inspect.acknowledge,
    flush.send,
    bench.soak,
    bench.bench,
)


class ErrorReportingGroup(click.Group):
    """Prints errors of this package as one sentence, with an exit status; works without standard streams."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line."""
        open_closed_streams()
        return super().main(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except SettingsError as error:
            click.echo(f"error: {error}", err=True)
            context.exit(2)
        except ViewerPipelineError as error:
            click.echo(f"error: {without_password(str(error))}", err=True)
            context.exit(1)


@click.group(cls=ErrorReportingGroup, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="viewer-pipeline")
def main() -> None:
    """Carry view counts from Redis to PostgreSQL, in batches, exactly once."""
