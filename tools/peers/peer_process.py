"""A program that is compared, as a process group under a supervisor that restarts it at once."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.peers.peers import Peer
from viewer_pipeline.bench.process_tree import sum_pss_mb
from viewer_pipeline.bench.thread_until_exit import ThreadUntilExit
from viewer_pipeline.settings import environment_without_settings
from viewer_pipeline.stack.managed_process import ManagedProcess

ROOT = Path(__file__).parents[2]
WATCH_SECONDS = 0.02
SAMPLE_SECONDS = 0.25


@dataclass(frozen=True)
class Flush:
    """A flush as the program has printed it."""

    counters: int
    seconds: float
    verification_seconds: float


class PeerProcess(ThreadUntilExit):
    """The program; it is restarted whenever it ends, until the `with` block ends."""

    def __init__(self, peer: Peer, python: Path, home: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self.log = home / "peer.log"
        self.restarts = 0
        self._process = ManagedProcess(
            peer.name,
            [sys.executable if peer.is_ours else python, "-m", peer.module],
            environment={
                **environment_without_settings(),
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "PEER_HOME": str(home),
                **environment,
            },
            log=self.log,
            grace_seconds=5,
        )
        self._process.start()

    def run_until_stopped(self) -> None:
        """Restart the program whenever it has ended; stop it at the end of the block."""
        while not self.stop.wait(WATCH_SECONDS):
            if self._process.exit_status() is not None:
                self._process.start()
                self.restarts += 1
        self._process.stop()

    def kill(self) -> None:
        """Send SIGKILL to the process group."""
        for pid in self._process.descendant_pids()[:1]:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def flushes(self) -> list[Flush]:
        """Return the flushes that were printed so far."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [Flush(**json.loads(line)) for line in lines if line.startswith('{"counters"')]

    def pids(self) -> list[int]:
        """Return the processes that run."""
        return self._process.descendant_pids()

    @property
    def reaper_pid(self) -> int:
        """The process whose descendants are those of the program."""
        return self._process.reaper_pid


class PeakMemory(ThreadUntilExit):
    """The largest sum of the proportional set sizes of all its processes while the `with` block runs."""

    def __init__(self, process: PeerProcess) -> None:
        super().__init__()
        self.mb = 0.0
        self._process = process

    def run_until_stopped(self) -> None:
        """Sample until the block ends."""
        while not self.stop.wait(SAMPLE_SECONDS):
            self.mb = max(self.mb, sum_pss_mb(self._process.pids()))
