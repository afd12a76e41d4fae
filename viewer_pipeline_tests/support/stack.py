"""`viewer-pipeline up` as a subprocess, for tests that need the whole stack."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.warm import run

COMMAND = [sys.executable, "-m", "viewer_pipeline.cli"]
BANNER = r'(?:Dagster UI +|"dagster_ui": ")(http://[^\s/"]+)'


def variables(directory: Path, **settings: str) -> dict[str, str]:
    """Return the environment for `up`: its home below a directory, a short interval, and these settings."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "VIEWER_HOME": str(directory / "home"),
        "BATCH_INTERVAL_MS": "5000",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        **settings,
    }


def query_graphql(ui: str, query: str, **variables: Any) -> dict[str, Any]:
    """Query Dagster's GraphQL as the UI does; return the only result."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{ui}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ENOUGH) as response:
        (result,) = json.load(response)["data"].values()
    return dict(result)


@dataclass(frozen=True)
class Stack:
    """A stack that was started."""

    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        """Its VIEWER_HOME."""
        return Path(self.environment["VIEWER_HOME"])

    def find_in_log(self, pattern: str) -> str:
        """Return the group of a pattern in its log, empty if there is no match yet. Asserts that it runs."""
        assert self.process.poll() is None, self.log.read_text()
        match = re.search(pattern, self.log.read_text())
        return match[1] if match else ""

    def wait_for_ui(self) -> str:
        """Wait for the banner, the last step of a start; return the URL of the UI without a final slash."""
        wait_until(lambda: self.find_in_log(BANNER), 180, "the banner of `up`")
        return self.find_in_log(BANNER)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with the same environment."""
        return run(self.environment, *arguments)

    def stop(self) -> None:
        """Stop it with SIGTERM, and assert exit status 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(ENOUGH) == 0, self.log.read_text()


@contextmanager
def up(environment: dict[str, str], prefix: Sequence[str] = (), log: Path | None = None) -> Iterator[Stack]:
    """Start the stack, and end it with the context.

    `prefix`: a command that executes `up` with other standard streams; `log`: the file it writes to then.
    """
    log = log or Path(environment["HOME"], "up.log")
    with log.open("ab") as output:
        command = [*prefix, *COMMAND, "up"]
        process = subprocess.Popen(command, env=environment, cwd=environment["HOME"], stderr=output)
    with process:
        try:
            yield Stack(environment, log, process)
        finally:
            process.kill()
