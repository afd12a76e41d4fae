"""`viewer-pipeline reconcile`: in this process, with its progress on stderr where somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from viewer_pipeline.flush.ledger import Flush, Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile import run
from viewer_pipeline.reconcile.adjust import Adjuster
from viewer_pipeline.reconcile.run import STEPS, Reconciled
from viewer_pipeline.reconcile.undo import undo
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.target.table import TargetNames

SHOWN = 20


@contextmanager
def _stores(settings: Settings) -> Iterator[Stores]:
    url, ledger = settings.require_redis_url(), Ledger(settings.require_database_url(), TargetNames.of(settings))
    with connect(url) as client:
        yield Stores(RedisStore(client, url, settings.counter_prefix, settings.totals_channel), ledger)


def run_reconcile(settings: Settings, *, repair: bool) -> Reconciled:
    """Compare, and mend if told to."""
    what = run.Reconcile.of(settings, uuid4().hex, repair=repair)
    with _stores(settings) as stores, _progress() as progress:
        return run.reconcile(stores, what, progress)


def run_undo(settings: Settings, seq: int) -> Flush:
    """Take back what a flush adjusted. Raises CannotUndo."""
    with _stores(settings) as stores, stores.ledger.connect() as connection:
        adjuster = Adjuster(stores, connection, uuid4().hex, settings.batch_size)
        return undo(adjuster, stores.ledger.target(connection), seq)


@contextmanager
def _progress() -> Iterator[run.Progress]:
    """Show which step is at work, and for how long, where stderr is a terminal."""
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


def show_reconciled(found: Reconciled) -> None:
    """Print it."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for check in found.checks():
        console.print(f"{'ok' if check.passed else 'DIFFERS':<8} {check.name}: {check.message}")
    for note in found.notes:
        console.print(f"{'note':<8} {note}")
    if found.first:
        table = Table("what", "VOD", "should be", "is", "why")
        for one in found.first[:SHOWN]:
            table.add_row(one.kind, one.subject, *("" if n is None else str(n) for n in one[2:4]), one.said)
        console.print(table)
    if found.flushes:
        console.print(f"mended in flushes {', '.join(map(str, found.flushes))}; each can be undone (--undo SEQ)")
    console.print(f"{found.vods} totals, {found.rejected} rejected, {found.seconds:.1f} s; all of it in {found.report}")
