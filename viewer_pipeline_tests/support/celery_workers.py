"""Celery workers as an operator starts them, each with a broker in common."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

COMMAND = [sys.executable, "-m", "celery", "-A", "viewer_pipeline.celery_worker", "worker"]
READY = "event=celery_worker_ready"


class CeleryWorker:
    """One worker, with a pool of one process."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        """`name`: the part of its node name in front of the host."""
        self.name = name
        directory = Path(environment["HOME"])
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "--hostname", f"{name}@%h", "--concurrency", "1"],
                env=dict(environment),
                cwd=directory,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it takes tasks."""
        wait_until(self._is_ready, 120, f"{self.name} is ready")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return READY in self.log.read_text()

    def kill(self) -> None:
        """Kill it and all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, such as SIGSTOP."""
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """Stop it as a service manager does, and assert that it ends by itself."""
        self.process.terminate()
        assert self.process.wait(ENOUGH) == 0, self.log.read_text()


@contextmanager
def celery_workers(environment: Mapping[str, str], *names: str) -> Iterator[list[CeleryWorker]]:
    """Start workers; end them with the context."""
    workers = [CeleryWorker(name, environment) for name in names]
    try:
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.kill()
