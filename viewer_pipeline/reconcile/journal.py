"""What was found to differ: all of it in a CSV file, the first of it and its numbers in memory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NamedTuple, Self

from viewer_pipeline.reconcile.reports import UNFINISHED

Kind = Literal["total", "given_up", "target", "marker", "counter", "parked"]
KINDS: tuple[Kind, ...] = ("total", "given_up", "target", "marker", "counter", "parked")
FIRST = 100  # differences that are kept in memory


class Difference(NamedTuple):
    """Something that is not what it should be. `said` is for operators."""

    kind: Kind
    subject: str  # the VOD, where it is about one
    expected: int | None
    found: int | None
    said: str
    mendable: bool = False
    basis: str = ""  # what mending starts from: the history of a total, the ids of a row of the target as JSON


@dataclass
class Journal:
    """Writes differences to `path`, which appears complete or not at all. Use as a context manager."""

    path: Path
    counts: Counter[Kind] = field(default_factory=Counter)
    mended: Counter[Kind] = field(default_factory=Counter)
    first: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed_over: dict[Kind, str] = field(default_factory=dict)  # what was not compared, and why
    flushes: list[int] = field(default_factory=list)  # that mended something

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_name(self.path.name + UNFINISHED)

    def __enter__(self) -> Self:
        self._file: IO[str] = self._partial.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(Difference._fields)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, difference: Difference) -> None:
        """Note one."""
        self.counts[difference.kind] += 1
        if len(self.first) < FIRST:
            self.first.append(difference)
        self._writer.writerow(["" if value is None else value for value in difference])

    def pass_over(self, kind: Kind, why: str) -> None:
        """Say why a kind was not compared: its check says so in place of a number."""
        self.passed_over[kind] = f"not compared: {why}"

    def mendable(self, kind: Kind) -> Iterator[tuple[str, str]]:
        """Yield subject and basis of what was noted so far and can be mended."""
        self._file.flush()
        with self._partial.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["kind"] == kind and row["mendable"] == "True":
                    yield row["subject"], row["basis"]

    def remaining(self, kind: Kind) -> int:
        """How many of a kind were found and not mended."""
        return self.counts[kind] - self.mended[kind]
