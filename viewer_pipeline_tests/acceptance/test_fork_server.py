"""The fork server, without the code server that starts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from viewer_pipeline_tests.support.waiting import ENOUGH

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it runs on Linux only")

START = """
import sys
from pathlib import Path
from multiprocessing import util
from viewer_pipeline.code_server.fork_server import can_fork_runs, start_fork_server

start_fork_server(Path(sys.argv[1]))
print(can_fork_runs(), Path(util.get_temp_dir()).parent)
"""

# As with a read-only root file system.
NO_TEMPORARY_DIRECTORY = """
import tempfile

def fail():
    raise FileNotFoundError(2, "No usable temporary directory found")

tempfile._get_default_tempdir = fail
"""


@pytest.mark.parametrize(("home", "used"), [("usable", True), ("x" * 100, False), ("/proc", False)])
def test_directory_of_sockets(home: str, used: bool) -> None:
    """It is DAGSTER_HOME; another one where the address would be too long, or where nothing can be written."""
    with TemporaryDirectory() as parent:  # its path is short
        directory = Path(parent, home)
        directory.mkdir(exist_ok=True)
        command = [sys.executable, "-c", START, str(directory)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=ENOUGH, check=True)
    can_fork, _, used_directory = result.stdout.strip().partition(" ")
    assert can_fork == "True"
    assert (used_directory == str(directory)) == used


def test_no_other_directory_is_needed() -> None:
    """DAGSTER_HOME is used where there is no directory for temporary files."""
    with TemporaryDirectory() as home:
        command = [sys.executable, "-c", NO_TEMPORARY_DIRECTORY + START, home]
        result = subprocess.run(command, capture_output=True, text=True, timeout=ENOUGH, check=True)
    assert result.stdout.strip() == f"True {home}"
