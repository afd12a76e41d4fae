"""The process of a run ends with its fork server, although the code server that started it lives and keeps it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from viewer_pipeline.code_server.fork_server import COLD_START_MODULE
from viewer_pipeline_tests.support.processes import is_alive
from viewer_pipeline_tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and /proc of Linux; elsewhere runs are spawned")

# Starts a run as the code server does, and keeps it. The run writes the ids of its process and of its fork server.
PROGRAM = f"""
import multiprocessing, signal, sys
from multiprocessing.context import ForkServerProcess
from viewer_pipeline.code_server.server import _execute_run

multiprocessing.set_forkserver_preload([{COLD_START_MODULE!r}])
run = ForkServerProcess(target=_execute_run, args=[exec, sys.argv[1]])
run.start()
signal.pause()
"""
RUN = (
    "import os, pathlib, signal; pathlib.Path({!r}).write_text(f'{{os.getpid()}} {{os.getppid()}}\\n'); signal.pause()"
)


def test_a_run_ends_with_its_fork_server(tmp_path: Path) -> None:
    """What the code server reports as failed must not go on."""
    ids = tmp_path / "ids"
    environment = os.environ | {"VIEWER_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, RUN.format(str(ids))], env=environment) as starter:
        try:
            wait_until(lambda: ids.exists() and ids.read_text().endswith("\n"), 120, "the run begins")
            run, fork_server = map(int, ids.read_text().split())
            assert fork_server != starter.pid
            os.kill(fork_server, signal.SIGKILL)
            wait_until(lambda: not is_alive(run), 60, "the run ends with its fork server")
            assert starter.poll() is None
        finally:
            starter.kill()
