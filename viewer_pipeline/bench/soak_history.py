"""The history of a soak: views sent, views stored and faults, for a program that shares no code with this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True)
class SoakHistory:
    """A file of JSON lines, which several processes and threads append to; without a path, nothing is written.

    The docstring of tools/judge.py defines them. VODs are named by their complete key; times are `time.monotonic()`.
    """

    path: Path | None = None

    def start(self, system: str) -> None:
        """Empty the file, and write its first line."""
        if self.path:
            self.path.write_bytes(b"")
            self._write({"type": "start", "format": 1, "system": system})

    def append(self, kind: str, begin: float, end: float, **values: object) -> None:
        """Append one line."""
        self._write({"type": kind, "begin": begin, "end": end, **values})

    def _write(self, line: dict[str, object]) -> None:
        if self.path:
            with self.path.open("ab", buffering=0) as file:  # one write: lines of several processes do not mix
                file.write(orjson.dumps(line) + b"\n")
