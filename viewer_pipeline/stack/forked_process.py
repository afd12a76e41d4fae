"""A child process that is a fork of this one, and ends with it, however it ends."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from viewer_pipeline.code_server.process_lifetime import end_with_forking_process, set_process_name
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.logs import PACKAGE_LOGGER
from viewer_pipeline.orchestration.exit_with_error import exit_with_error


class ForkedProcess:
    """Executes a Python module: in a fork of this process as it is (`warm`), else in a new Python process.

    Output is appended to `log`.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *, warm: bool) -> None:
        """Prepare it. `arguments`: of Python, `-m` and the name of the module first."""
        self.name, self.log = name, log
        self.pid = 0
        self._arguments, self._warm = arguments, warm
        self._status: int | None = 0

    def start(self) -> None:
        """Start it; again, if it has ended."""
        self._status = None
        self.pid = fork_and_call(self._execute)

    def exit_status(self) -> int | None:
        """Return the exit status, None while it runs."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status

    def stop(self, grace_seconds: float) -> None:
        """Stop it, kill it after the grace period."""
        deadline = time.monotonic() + grace_seconds
        if self.exit_status() is None:
            os.kill(self.pid, signal.SIGTERM)
        while self.exit_status() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)

    def _execute(self) -> None:
        output = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if not self._warm:
            os.execv(sys.executable, [sys.executable, *self._arguments])  # noqa: S606 - no shell is wanted
        logging.getLogger(PACKAGE_LOGGER).handlers.clear()  # of the forking process
        set_process_name(self.name)
        _, module, *options = self._arguments
        sys.argv[1:] = options
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def fork_and_call(function: Callable[[], None]) -> int:
    """Call a function in a fork of this process, which exits afterwards; return its id. Call it in a single thread.

    It exits as a Python process does, through the frames of the callers: what is registered for the exit is called. An
    error becomes SystemExit, which none of them handles.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    end_with_forking_process(parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        function()
    except ViewerPipelineError as error:
        exit_with_error(error)
    except Exception:  # noqa: BLE001 - the process ends
        traceback.print_exc()
        sys.exit(1)
    sys.exit()
