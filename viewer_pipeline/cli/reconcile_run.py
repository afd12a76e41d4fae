"""Reconciliation in this process, with its progress on stderr where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from viewer_pipeline.cli.table_columns import id_column, number_columns
from viewer_pipeline.flush.ledger_row_types import Flush
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile import reconciliation
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.reconciliation import STEPS, ReconcileRequest, ReconcileResult
from viewer_pipeline.reconcile.undo import undo_adjustment
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import pluralize

MAX_ROWS = 20
PIPE_WIDTH = 160  # of a table that goes to a file or a pipe


def run_reconcile(settings: Settings, *, repair: bool) -> ReconcileResult:
    """Compare, and repair if requested."""
    request = ReconcileRequest.of(settings, uuid4().hex, repair=repair)
    with Stores.open(settings) as stores, _progress() as progress:
        return reconciliation.reconcile(stores, request, progress)


def run_undo(settings: Settings, seq: int) -> Flush:
    """Undo the adjustments of a flush. Raises CannotUndo."""
    with Stores.open(settings) as stores, stores.ledger.connect() as connection:
        adjuster = Adjuster(stores.of_each_stream(connection)[0], connection, uuid4().hex, settings.batch_size)
        return undo_adjustment(adjuster, stores.ledger.target(connection), seq)


@contextmanager
def _progress() -> Iterator[reconciliation.Progress]:
    """Show the current step and its duration, where stderr is a terminal."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(STEPS))

        def begin(step: str) -> None:
            bar.update(task, description=step, completed=STEPS.index(step))

        yield begin


def print_reconcile_result(result: ReconcileResult) -> None:
    """Print the result of a reconciliation."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    for check in result.checks():
        console.print(f"{'ok' if check.passed else 'DIFFERS':<8} {check.name}: {check.message}")
    for note in result.notes:
        console.print(f"{'note':<8} {note}")
    if result.first_differences:
        counts = number_columns("expected", "actual")
        differences = result.first_differences[:MAX_ROWS]
        table = Table("kind", id_column("VOD", [difference.subject for difference in differences]), *counts, "message")
        for difference in differences:
            cells = ("" if count is None else str(count) for count in (difference.expected, difference.actual))
            table.add_row(difference.kind, difference.subject, *cells, difference.message)
        console.print(table)
    if result.flushes:
        noun = "flush" if len(result.flushes) == 1 else "flushes"
        console.print(f"repaired in {noun} {', '.join(map(str, result.flushes))}; each can be undone (--undo SEQ)")
    console.print(
        f"{pluralize(result.vods, 'total')}, {result.rejected} rejected, {result.seconds:.1f} s;"
        f" the full report is {result.report}"
    )
