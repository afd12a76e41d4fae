"""Lines of Dagster's processes that `up` repeats in its foreground: one for each flush, warnings and errors.

With LOG_LEVEL=debug all of our lines: why a tick requested a run or did not, and what each run decided.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# The order of these fields is that of `logs.LineFormatter`. Lines of libraries have a text as their event.
_BEGIN = re.compile(
    r"time=\S+ level=(\w+) logger=\S+ event=([a-z_]+)(?: |$)"
    r'|\{"time": "\S+", "level": "(\w+)", "logger": "\S+", "event": "([a-z_]+)"[,}]'
)
PROBLEMS = ("warning", "error", "critical")
OF_DAGSTER = ("step_failure", "run_failure")  # with long tracebacks; `run_failed` has the reason


class RepeatedLines:
    """The lines that are appended to a log from now on. A rotated log is read from its beginning."""

    def __init__(self, log: Path, *, of_all_levels: bool = False) -> None:
        self._log, self._of_all_levels = log, of_all_levels
        self._position = log.stat().st_size if log.exists() else 0

    def repeat(self) -> None:
        """Write those to stderr that were appended since the last call."""
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            if log.seek(0, 2) < self._position:
                self._position = 0
            log.seek(self._position)
            lines = log.read().rpartition(b"\n")[0]  # the last one may be incomplete
        if lines:
            self._position += len(lines) + 1
            for line in lines.decode(errors="replace").split("\n"):
                if is_repeated(line, of_all_levels=self._of_all_levels):
                    sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def is_repeated(line: str, *, of_all_levels: bool = False) -> bool:
    """Whether it is one of our events, in either format: a flush, a warning or an error, or any."""
    if (begin := _BEGIN.match(line)) is None:
        return False
    level, name = filter(None, begin.groups())
    return name == "flush_committed" or ((of_all_levels or level in PROBLEMS) and name not in OF_DAGSTER)
