"""The report: every difference in a CSV file in VIEWER_HOME; the first of them and their numbers in memory."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple, Self

Kind = Literal["total", "pruned", "held", "target", "marker", "counter", "parked"]
KINDS: tuple[Kind, ...] = ("total", "pruned", "held", "target", "marker", "counter", "parked")
MAX_IN_MEMORY = 100  # differences
MAX_REPORTS = 30
DAY_SECONDS = 86_400  # longer than any reconciliation takes
_PATTERN, _UNFINISHED = "reconcile-*.csv", ".partial"


class Difference(NamedTuple):
    """A value that is not what it should be. `message` is for operators."""

    kind: Kind
    subject: str  # the VOD; empty where the difference is not about one VOD
    expected: int | None
    actual: int | None
    message: str
    repairable: bool = False
    repair_input: str = ""  # of a total: its history; of a row of the target: its ids as JSON


@dataclass
class DifferenceReport:
    """Writes differences to `path`, which appears complete or not at all. Use as a context manager."""

    path: Path
    differences: Counter[Kind] = field(default_factory=Counter)
    repaired: Counter[Kind] = field(default_factory=Counter)
    first_differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[Kind, str] = field(default_factory=dict)  # kinds that were not compared, with the reason
    flushes: list[int] = field(default_factory=list)  # that repaired something

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(self.path.name + _UNFINISHED)

    def __enter__(self) -> Self:
        self._file: IO[str] = self._partial.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(Difference._fields)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, difference: Difference) -> None:
        """Write one difference."""
        self.differences[difference.kind] += 1
        if len(self.first_differences) < MAX_IN_MEMORY:
            self.first_differences.append(difference)
        self._writer.writerow(["" if value is None else value for value in difference])

    def skip(self, kind: Kind, reason: str) -> None:
        """Record that a kind was not compared; its check shows the reason in place of a number."""
        self.skipped[kind] = f"not compared: {reason}"

    def repairable(self, kind: Kind) -> Iterator[tuple[str, str]]:
        """Yield subject and repair input of each difference so far that can be repaired."""
        self._file.flush()
        with self._partial.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["kind"] == kind and row["repairable"] == "True":
                    yield row["subject"], row["repair_input"]


def report_path(directory: Path, stamp: str, run_id: str) -> Path:
    """Return the path for the report of a run. The names sort by time."""
    return directory / f"reconcile-{stamp}-{run_id[:8]}.csv"


def prune_reports(newest: Path) -> None:
    """Delete all but the newest reports beside this one, and unfinished reports of runs that were killed."""
    others = sorted((path for path in newest.parent.glob(_PATTERN) if path != newest), reverse=True)
    yesterday = time.time() - DAY_SECONDS
    unfinished = [path for path in newest.parent.glob(_PATTERN + _UNFINISHED) if _modified_at(path) < yesterday]
    for path in (*others[MAX_REPORTS - 1 :], *unfinished):
        path.unlink(missing_ok=True)


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # its run has ended
        return time.time()
