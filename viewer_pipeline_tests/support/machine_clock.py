"""The clock of a machine that a test sets: for all processes started with its environment, by a preloaded library.

Only the time of day changes, as when an operator or NTP sets the clock. Monotonic clocks go on.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class MachineClock:
    """The clock, and the environment of processes that read it."""

    offset_file: Path
    environment: dict[str, str]

    @classmethod
    def build(cls, directory: Path) -> MachineClock:
        """Compile the library; skip the test where that is impossible. The clock is right at first."""
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("needs Linux and a C compiler")
        library, offset_file = directory / "machine_clock.so", directory / "offset"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        clock = cls(offset_file, {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset_file)})
        offset_file.touch()
        clock.set_ahead(timedelta(0))
        return clock

    def set_time(self, moment: datetime) -> None:
        """Set the clock to a time."""
        self.set_ahead(moment - datetime.now(UTC))

    def set_ahead(self, difference: timedelta) -> None:
        """Set the clock so far ahead of the real one."""
        with self.offset_file.open("r+b") as file:  # in place: processes have mapped the file
            file.write(struct.pack("q", round(difference.total_seconds())))
