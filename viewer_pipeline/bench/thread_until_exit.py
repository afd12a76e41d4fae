"""A thread that works while a `with` block runs."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class ThreadUntilExit(ABC):
    """Runs `run_until_stopped` on a thread; leaving the `with` block sets `stop` and waits for its end."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.run_until_stopped)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    @abstractmethod
    def run_until_stopped(self) -> None:
        """Work until `stop` is set."""
