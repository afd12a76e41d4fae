"""The demo in a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from viewer_pipeline.stack.demo import DemoReport

MAX_ROWS = 10


class Display:
    """Shows steps and two progress bars on stderr, the result on stdout."""

    def __init__(self, views: int) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console)
        self._sent = self._progress.add_task("sent     ", total=views)
        self._persisted = self._progress.add_task("persisted", total=views)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def print_step(self, text: str) -> None:
        """Print the name of a step."""
        self._console.print(text, highlight=False)

    def update(self, sent: int, persisted: int) -> None:
        """Update the progress bars."""
        self._progress.update(self._sent, completed=sent)
        self._progress.update(self._persisted, completed=persisted)

    def render(self, report: DemoReport) -> None:
        """Print the most viewed VODs and whether every view was persisted once."""
        console = Console()
        table = Table("VOD", "sent", "persisted", title=f"the {MAX_ROWS} most viewed of {len(report.sent)} VODs")
        for vod_id, sent in sorted(report.sent.items(), key=lambda item: -item[1])[:MAX_ROWS]:
            table.add_row(vod_id, str(sent), str(report.persisted.get(vod_id, 0)))
        console.print(table)
        sent, persisted = sum(report.sent.values()), sum(report.persisted.values())
        console.print(f"started in {report.start_seconds:.0f} s; {report.flush_runs} runs, {report.flushes} flushes")
        console.print(f"{sent} views in {report.seconds:.0f} s, {sent / max(report.seconds, 0.001):.0f} a second")
        result = "exact for every VOD" if report.is_exact else "DIFFERS"
        console.print(
            f"sent {sent} = persisted {persisted} + in Redis {report.left_in_redis} + parked {report.parked}: {result}"
            f" (lost {report.lost}, duplicated {report.duplicated}, rejected {report.rejected})"
        )
