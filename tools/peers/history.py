"""What was sent, done and observed, in the format of `tools/judge.py`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class History:
    """Lines, in memory until they are written."""

    system: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_send(self, begin: float, views: Mapping[str, int]) -> None:
        """Add views that Redis has acknowledged since `begin` (monotonic)."""
        self._add("send", begin, outcome="ok", views=dict(views))

    def add_fault(self, begin: float, name: str) -> None:
        """Add what was done to the program or to its servers."""
        self._add("fault", begin, name=name)

    def add_final(self, begin: float, persisted: Mapping[str, int], pending: Mapping[str, int]) -> None:
        """Add the last totals and counters."""
        self._add("final", begin, persisted=dict(persisted), pending=dict(pending))

    def write(self, file: Path) -> None:
        """Write all lines."""
        start = {"type": "start", "format": 1, "system": self.system}
        file.write_text("".join(json.dumps(line) + "\n" for line in [start, *self.lines]))

    def _add(self, kind: str, begin: float, **values: Any) -> None:
        with self.lock:
            self.lines.append({"type": kind, "begin": begin, "end": time.monotonic(), **values})
