"""The supervisor of Dagster's processes, and its ends: what it leaves, and what it does not touch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg

from viewer_pipeline.home_lock_and_server_urls import SERVERS_FILE
from viewer_pipeline.stack.dagster_supervisor import STATE_FILE
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import find_free_port
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.processes import parent
from viewer_pipeline_tests.support.stack import COMMAND, Stack, up, variables
from viewer_pipeline_tests.support.ui_runs import WAITING
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

CODE_SERVER_ENDED = '{"code-server": {"pid": 1, "exit_status": 1}}'
FORK_OF_CALLER = """
import os
from viewer_pipeline.errors import PostgresUnavailable
from viewer_pipeline.stack.forked_process import fork_and_call

def fail():
    raise {error}

try:
    pid = fork_and_call(fail)
except Exception:
    print("the fork continues as its caller")
else:
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
SUCCEEDED = "SELECT 1 FROM dagster.runs WHERE status = 'SUCCESS'"
# As a sitecustomize.py: the supervisor ends before it has read its input.
FAILS = """
import os, sys
if "viewer_pipeline.stack.dagster_supervisor" in sys.orig_argv:
    os._exit(1)
"""


def code_server_pid(stack: Stack) -> int:
    """Return the process id of the code server that was started last."""
    return int(json.loads((stack.home / STATE_FILE).read_text())["code-server"]["pid"])


def handles_sigterm(status: str) -> bool:
    """Whether a process has a handler for SIGTERM, by its status in /proc."""
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_error_ends_the_fork() -> None:
    """An error in a fork is written once, and does not reach the code that called it."""
    for error, line in (('PostgresUnavailable("no route")', "error: PostgreSQL"), ("OSError(5)", "OSError: 5")):
        command = [sys.executable, "-c", FORK_OF_CALLER.format(error=error)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=ENOUGH, check=True)
        assert result.stdout == "1\n"
        assert result.stderr.count(line) == 1


def test_lines_to_a_process_that_has_ended(tmp_path: Path) -> None:
    """They are dropped: before the start, after the end, and after a stop. It can be started again."""
    process = ManagedProcess("ended", [sys.executable, "-c", ""], log=tmp_path / "log", has_input=True)
    process.write_line("before the start")
    for _ in range(2):
        process.start()
        wait_until(lambda: process.exit_status() is not None, 30, "its end")
        process.write_line("after the end")
    process.stop()
    process.write_line("after the stop")
    process.stop()


def test_supervisor_that_does_not_start(tmp_path: Path) -> None:
    """`up` reports it, and stops what it has started in order."""
    (tmp_path / "sitecustomize.py").write_text(FAILS)
    environment = variables(tmp_path, PYTHONPATH=str(tmp_path), HEALTH_CHECK_PORT=str(find_free_port()))
    result = subprocess.run(
        [*COMMAND, "up"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "error: An embedded server could not be started: the code-server does not start" in result.stderr
    assert "stopping PostgreSQL" in result.stderr


def test_stop_while_it_imports(tmp_path: Path) -> None:
    """A stop that comes early prints nothing."""
    environment = variables(
        tmp_path, DATABASE_URL="postgresql://nowhere/viewer", REDIS_URL="redis://nowhere", HISTORY_START="2026-01-01"
    )  # with a first day, which the definitions would read otherwise
    command = [sys.executable, "-m", "viewer_pipeline.stack.dagster_supervisor", "{}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdin=pipe, stderr=pipe, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: handles_sigterm(status.read_text()), 60, "the import of Dagster")
        process.terminate()
        assert process.communicate(timeout=ENOUGH)[1] == ""


def test_flush_of_the_command_line_survives_the_supervisor(tmp_path: Path) -> None:
    """A flush in a process of its own continues when the supervisor is killed, and is not reported as failed.

    And a file that an earlier `up` left, when it was killed, is not taken for the state of this one's processes.
    """
    environment = variables(
        tmp_path, HEALTH_CHECK_PORT=str(find_free_port()), SWEEP_CRON="0 0 1 1 *", SENSOR_SCAN_MAX_KEYS="0"
    )
    home = Path(environment["VIEWER_HOME"])
    home.mkdir()
    (home / STATE_FILE).write_text(CODE_SERVER_ENDED)
    with up(environment) as stack:
        stack.wait_for_ui()
        servers = json.loads((stack.home / SERVERS_FILE).read_text())
        with (
            psycopg.connect(servers["database_url"], autocommit=True) as reading,
            psycopg.connect(servers["database_url"]) as locking,
            connect(servers["redis_url"]) as client,
        ):
            wait_until(lambda: reading.execute(SUCCEEDED).fetchone(), 90, "the sweep at the start")
            locking.execute("LOCK TABLE viewer.vod_view_counts IN SHARE MODE")
            client.incr("vod:views:vod_1")  # which nobody but a sweep finds
            flush = subprocess.Popen([*COMMAND, "flush"], env=environment, cwd=tmp_path)
            wait_until(lambda: reading.execute(WAITING).fetchone() == (1,), 60, "the flush waits for the lock")
            code_server = code_server_pid(stack)
            os.kill(parent(code_server), signal.SIGKILL)
            wait_until(lambda: code_server_pid(stack) != code_server, 90, "another supervisor, another code server")
            locking.rollback()
            assert flush.wait(ENOUGH) == 0
            assert reading.execute("SELECT view_count FROM viewer.vod_view_counts").fetchall() == [(1,)]
        assert "run_ended_with_code_server" not in stack.log.read_text()
        stack.stop()
