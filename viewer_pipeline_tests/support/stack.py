"""`viewer-pipeline up` from outside, for the tests that need the whole stack."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.warm import run

COMMAND = [sys.executable, "-m", "viewer_pipeline.cli"]
BANNER = r"Dagster UI +(http://[^\s/]+)"


def variables(directory: Path, **settings: str) -> dict[str, str]:
    """Return what `up` is to find in its environment: its home below a directory, a short interval, and settings."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "VIEWER_HOME": str(directory / "home"),
        "BATCH_INTERVAL_MS": "5000",
        **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        **settings,
    }


@dataclass(frozen=True)
class Stack:
    """A stack that was started, and perhaps has ended."""

    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def home(self) -> Path:
        """Its VIEWER_HOME."""
        return Path(self.environment["VIEWER_HOME"])

    def said(self, pattern: str) -> str:
        """Return the group of a pattern in its log, empty where it is not there yet. It must be alive."""
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(pattern, self.log.read_text())
        return found[1] if found else ""

    def wait_for_ui(self) -> str:
        """Wait for the banner, after which all of it runs; return the URL of the UI, without a slash at its end."""
        wait_until(lambda: self.said(BANNER), 180, "the banner of `up`")
        return self.said(BANNER)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, with the same environment."""
        return run(self.environment, *words)

    def stop(self) -> None:
        """Stop it in order, as SIGTERM does; it must end well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(90) == 0, self.log.read_text()


@contextmanager
def up(environment: dict[str, str], prefix: Sequence[str] = (), log: Path | None = None) -> Iterator[Stack]:
    """Start the stack; whatever happens, end it.

    `prefix`: a command that becomes `up`, with other standard streams; `log`: where it writes then.
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
