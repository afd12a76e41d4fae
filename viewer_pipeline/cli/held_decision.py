"""Deciding about held views by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from viewer_pipeline.cli.table_columns import number_columns
from viewer_pipeline.errors import CannotDecide
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import Decided, HeldEpoch, count_held, drop_held, held_by_epoch
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import escape_invisible, views_of_vods
from viewer_pipeline.time_formatting import format_timestamp

Decision = Literal["count", "drop"]


@dataclass(frozen=True)
class HeldReport:
    """What was decided, and what is held now."""

    decision: Decision | None
    decided: Decided
    held: Sequence[HeldEpoch]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "decision": self.decision,
            "decided": self.decided._asdict(),
            "vods": sum(epoch.vods for epoch in self.held),
            "views": sum(epoch.views for epoch in self.held),
            "epochs": [epoch._asdict() | {"since": format_timestamp(epoch.since)} for epoch in self.held],
        }


def decide_about_held(settings: Settings, decision: Decision | None, epochs: Sequence[str]) -> HeldReport:
    """Count or drop what is held of these epochs; of none: of the only one. Return what is held then.

    Raises CannotDecide, PostgresUnavailable.

    Only the decision `count` needs Redis: the marker has to pass the flushes that count.
    """
    with Ledger.of(settings).connect() as connection:
        held = held_by_epoch(connection)
        vods = views = 0
        if decision is not None:
            for epoch in _choose(held, epochs):
                decided = drop_held(connection, epoch) if decision == "drop" else _count(settings, epoch)
                vods, views = vods + decided.vods, views + decided.views
            held = held_by_epoch(connection)
    return HeldReport(decision, Decided(vods, views), held)


def _choose(held: Sequence[HeldEpoch], epochs: Sequence[str]) -> list[str]:
    """Return the epochs to decide about, each once, oldest first; none if nothing is held."""
    known = [row.epoch for row in held]
    for epoch in epochs:
        if epoch not in known:
            raise CannotDecide(f"no views of epoch {epoch!r} are held; `held` shows those that are")
    if not epochs and len(known) > 1:
        names = escape_invisible(" --epoch ".join(known))
        raise CannotDecide(f"there are {len(known)} occasions, each with an epoch; name one or more: --epoch {names}")
    return [epoch for epoch in known if epoch in epochs or not epochs]


def _count(settings: Settings, epoch: str) -> Decided:
    with Stores.open(settings) as stores, stores.ledger.connect() as connection:
        adjuster = Adjuster(stores.of_each_stream(connection)[0], connection, uuid4().hex, settings.batch_size)
        return count_held(adjuster, stores.ledger.target(connection), epoch, settings.max_counters_per_flush)


def print_held(report: HeldReport) -> None:
    """Print a report."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if report.decision is not None:
        done = "counted" if report.decision == "count" else "dropped"
        console.print(f"{done} {views_of_vods(report.decided.views, report.decided.vods)}")
    stats = report.to_dict()
    console.print(f"held: {views_of_vods(stats['views'], stats['vods'])}")
    if report.held:
        table = Table("epoch", *number_columns("VODs", "views"), "since (UTC)")
        for epoch in report.held:
            table.add_row(
                escape_invisible(epoch.epoch), str(epoch.vods), str(epoch.views), f"{epoch.since:%Y-%m-%d %H:%M}"
            )
        console.print(table)
