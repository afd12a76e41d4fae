"""The command `streams`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.option_types import NamedArgument
from viewer_pipeline.cli.output import echo_result, json_option


@click.command()
@click.argument("action", cls=NamedArgument, type=click.Choice(["apply"]), metavar="[ACTION]", required=False)
@json_option
def streams(action: Literal["apply"] | None, as_json: bool) -> None:
    """Show the streams of flushes, or change their number.

    Each stream flushes a part of the VODs by itself. ACTION is apply: cut the VODs into as many parts as FLUSH_STREAMS
    says, once all that was committed is settled. Runs that are under way commit nothing more. Safe to repeat.
    """
    from viewer_pipeline.flush.ledger_streams import read_open_streams
    from viewer_pipeline.flush.recorded_settings import record_flush_streams
    from viewer_pipeline.flush.stores import Stores
    from viewer_pipeline.flush.stream_change import change_streams

    settings = load_settings_with_running_servers()
    require_responding_servers(settings)
    with Stores.open(settings) as stores:
        if action == "apply":
            change_streams(stores, settings.flush_streams)
            record_flush_streams(stores.redis, settings)
        with stores.ledger.connect() as connection:
            open_streams = read_open_streams(connection)
            rows = [(stream, stores.of_stream(stream).ledger.last_flush(connection)) for stream in open_streams.active]
        report: dict[str, Any] = {
            "flush_streams": settings.flush_streams,
            "changing": bool(open_streams.closing or open_streams.planned),
            "streams": [
                {"stream": stream.id, "part": stream.name, "last_flush": last.seq}
                | {"pending_vods": stores.of_stream(stream).redis.changed_set_size_and_oldest()[0]}
                for stream, last in rows
            ],
        }
    echo_result(report, partial(_print, report), as_json=as_json)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from viewer_pipeline.cli.table_columns import number_columns
    from viewer_pipeline.command_to_type import command_to_type
    from viewer_pipeline.streams import format_seq

    console = Console(markup=False, highlight=False, soft_wrap=True)
    apply = command_to_type("streams apply")
    if report["changing"]:
        console.print(f"a change of the streams was interrupted; `{apply}` completes it")
        return
    table = Table("part", *number_columns("stream", "last flush", "announced VODs"))
    for row in report["streams"]:
        table.add_row(row["part"], str(row["stream"]), format_seq(row["last_flush"]), str(row["pending_vods"]))
    console.print(table)
    if len(report["streams"]) != report["flush_streams"]:
        console.print(f"FLUSH_STREAMS={report['flush_streams']}: `{apply}` changes the number of streams")
