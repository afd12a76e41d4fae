"""The Celery workers of a demo, and their broker."""

from __future__ import annotations

import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from viewer_pipeline.errors import EmbeddedServerError, SettingsError
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import ManagedProcess, signal_processes
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stores.celery_broker import read_broker

START_SECONDS = 300.0
GRACE_SECONDS = 10.0  # of a run, when the demo ends
COMMAND = ("-m", "celery", "-A", "viewer_pipeline.celery_worker", "worker", "--concurrency", "1")


class CeleryWorkers:
    """Workers that execute one run at a time each, with a Redis of their own as broker."""

    def __init__(self, home: Path, count: int) -> None:
        """Prepare them. `home`: directory of their logs and of the broker's data. Raises SettingsError."""
        if find_spec("dagster_celery") is None:
            raise SettingsError("Celery workers need the extra `celery`", "pip install 'viewer-pipeline[celery]'")
        self._home, self._count = home, count
        self._broker = RedisServer(home / "broker", port=find_free_port(), append_only=False)
        self._workers = list[ManagedProcess]()

    def start_broker(self) -> str:
        """Start the broker; return its URL."""
        self._broker.start()
        return self._broker.url

    def start_workers(self, settings: Settings) -> None:
        """Start the workers, without waiting for them."""
        for number in range(1, self._count + 1):
            name = f"celery-{number}"
            worker = ManagedProcess(
                name,
                [sys.executable, *COMMAND, "--hostname", f"{name}@%h"],
                # A worker that is killed leaves its temporary files.
                environment={**settings.child_process_environment(), "TMPDIR": str(self._home)},
                log=self._home / f"{name}.log",
                grace_seconds=GRACE_SECONDS,
            )
            worker.start()
            self._workers.append(worker)

    def wait_until_ready(self) -> None:
        """Wait until all of them take runs. Raises EmbeddedServerError."""
        deadline = time.monotonic() + START_SECONDS
        while len(read_broker(self._broker.url).workers) < self._count:
            for worker in self._workers:
                if worker.exit_status() is not None or time.monotonic() > deadline:
                    raise EmbeddedServerError(f"{worker.name} does not start; the end of its log:\n{worker.log_tail()}")
            time.sleep(0.05)

    def kill_one(self) -> str:
        """Kill a worker with all its processes, as if its machine lost power; return its name."""
        worker = self._workers.pop(0)
        signal_processes(worker.descendant_pids(), signal.SIGKILL)
        return worker.name

    def stop(self) -> None:
        """Stop all. Idempotent."""
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        self._broker.stop()
