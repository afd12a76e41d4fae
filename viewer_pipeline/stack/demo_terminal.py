"""The demo in a terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from viewer_pipeline.stack.demo import DemoReport
from viewer_pipeline.text_formatting import pluralize

MAX_ROWS = 10


class DemoProgressBars(Progress):
    """Two progress bars on stderr, below what is printed on their console."""

    def __init__(self, views: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=Console(stderr=True, highlight=False))
        self._sent = self.add_task("sent     ", total=views)
        self._persisted = self.add_task("persisted", total=views)

    def show_totals(self, sent: int, persisted: int) -> None:
        """Update the progress bars."""
        self.update(self._sent, completed=sent)
        self.update(self._persisted, completed=persisted)


def print_demo_report(report: DemoReport) -> None:
    """Print the most viewed VODs and whether every view was persisted once, on stdout."""
    console = Console(soft_wrap=True)  # the last line stays one line, for people who search for it
    numbers = (Column(name, justify="right") for name in ("sent", "persisted"))
    table = Table("VOD", *numbers, title=f"the {MAX_ROWS} most viewed of {pluralize(len(report.sent), 'VOD')}")
    for vod_id, sent in Counter(report.sent).most_common(MAX_ROWS):
        table.add_row(vod_id, str(sent), str(report.persisted.get(vod_id, 0)))
    console.print(table)
    sent, persisted = sum(report.sent.values()), sum(report.persisted.values())
    runs, flushes = pluralize(report.flush_runs, "run"), pluralize(report.flushes, "flush")
    failed = f" ({report.failed_runs} failed)" if report.failed_runs else ""
    console.print(f"started in {report.start_seconds:.0f} s; {runs}{failed}, {flushes}")
    rate = sent / max(report.seconds, 0.001)
    console.print(f"{pluralize(sent, 'view')} in {report.seconds:.0f} s, {rate:.0f} a second")
    result = "exact for every VOD" if report.is_exact else "DIFFERS"
    console.print(
        f"sent {sent} = persisted {persisted} + in Redis {report.left_in_redis} + parked {report.parked}: {result}"
        f" (lost {report.lost}, duplicated {report.duplicated}, rejected {report.rejected})"
    )
