"""The command that compares persisted counts with their history: reconcile."""

from __future__ import annotations

from functools import partial

import click

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers, require_responding_servers
from viewer_pipeline.cli.output import echo_result, json_option
from viewer_pipeline.text_formatting import pluralize


@click.command()
@click.option("--repair", is_flag=True, help="Repair what can be explained; each repair is in the ledger.")
@click.option("--undo", type=click.IntRange(1), metavar="SEQ", help="Undo the adjustments of this flush of a repair.")
@json_option
def reconcile(repair: bool, undo: int | None, as_json: bool) -> None:
    """Compare totals, target and marker with the history.

    And the values of counters, in one pass; flushes may run meanwhile. Writes all differences to a CSV file in
    VIEWER_HOME/reports. Exit status 1 if any remain.
    """
    from viewer_pipeline.cli.reconcile_run import print_reconcile_result, run_reconcile, run_undo

    if undo is not None and repair:
        raise click.UsageError("--undo goes without --repair")
    settings = load_settings_with_running_servers()
    require_responding_servers(settings)
    if undo is not None:
        flush = run_undo(settings, undo)
        undone = {"undone": undo, "flush": flush.seq, "vods": flush.counters, "views": flush.views}
        echo_result(
            undone, f"flush {undo} is undone by flush {flush.seq}: {pluralize(flush.views, 'view')}", as_json=as_json
        )
        return
    result = run_reconcile(settings, repair=repair)
    echo_result(result.to_dict(), partial(print_reconcile_result, result), as_json=as_json)
    if result.remaining:
        raise SystemExit(1)
