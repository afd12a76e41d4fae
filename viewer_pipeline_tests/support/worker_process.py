"""A worker as a process of its own, as operators start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import redis

from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline_tests.support.waiting import wait_until

READY = ("listening", "standing_by")


class WorkerProcess:
    """Started by `with`; ended at its end, whatever happens. Its log is JSON, one event a line.

    `prefix`: a command that becomes the worker. `stderr`: a descriptor to log to in place of the file.
    """

    def __init__(
        self,
        home: Path,
        database_url: str,
        redis_url: str,
        *,
        prefix: Sequence[str] = (),
        stderr: int | None = None,
        **variables: str,
    ) -> None:
        self.port = find_free_port()
        self._prefix, self._stderr = prefix, stderr
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / f"worker-{self.port}.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "VIEWER_HOME": str(home / "viewer"),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "HEALTH_CHECK_PORT": str(self.port),
            "LOG_FORMAT": "json",
            "SHUTDOWN_TIMEOUT_MS": "90000",  # the last flush may be slow on a busy machine
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
            **variables,
        }

    def __enter__(self) -> Self:
        command = [*self._prefix, sys.executable, "-m", "viewer_pipeline.cli", "worker"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=self._environment,
                cwd=self._environment["HOME"],
                stderr=output if self._stderr is None else self._stderr,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def has_logged(self, *events: str) -> bool:
        """Whether it has logged one of these events."""
        assert self.process.poll() is None, self.log.read_text()
        return any(line["event"] in events for line in self.events())

    def wait_until_ready(self) -> None:
        """Wait until it listens or stands by."""
        wait_until(lambda: self.has_logged(*READY), 60, "the worker listens")

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def last_event(self) -> dict[str, Any]:
        """Return the last line of its log, which is an event."""
        last: dict[str, Any] = json.loads(self.log.read_text().splitlines()[-1])
        return last


def publish(client: redis.Redis, vod_id: str, count: int = 1, channel: str = "view_count_updates") -> int:
    """Publish as a producer does; return how many subscribers received it."""
    return int(client.publish(channel, json.dumps({"vodId": vod_id, "count": count})))
