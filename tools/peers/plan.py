"""How much is measured, and where the programs find their libraries and leave their histories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """The size of each scenario, and the paths."""

    python: Path  # of the virtual environment with the libraries of the programs
    history: Path | None = None  # directory of the histories; None: none is written
    seed: int = 1
    counters: int = 100_000
    rounds: int = 5
    markers: int = 40
    kills: int = 40
    vods: int = 20_000  # under faults
    views_per_second: int = 15_000  # under kills
    seconds_of_loss: float = 60.0
    stable_seconds: float = 6.0  # without a change, to take totals for the last ones
    stuck_seconds: float = 60.0  # the same while views are missing

    def quick(self) -> Plan:
        """Return a small plan: it shows that all of it works, and measures little."""
        return Plan(
            self.python, self.history, self.seed,
            counters=20_000, rounds=2, markers=5, kills=5, vods=2_000, views_per_second=2_000, seconds_of_loss=10.0,
        )  # fmt: skip
