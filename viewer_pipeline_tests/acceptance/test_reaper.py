"""The reaper: a command ends with the process that started it, and its children end with it."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from viewer_pipeline.stack.managed_process import REAPER
from viewer_pipeline_tests.support.waiting import processes_with, wait_until

# Prints "ready", then waits for signals: exits with status 7 at the signal NAME, or ignores it.
WAITS = """
import signal, sys
signal.signal(signal.SIG{name}, {handler})
print("ready", flush=True)
while True:
    signal.pause()
"""
# Exits with status 7 at the stop signal, or with 9 if the signal comes twice.
COUNTS = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
print("stopping", flush=True)
sys.exit(9 if signal.sigtimedwait({signal.SIGTERM}, 0.5) else 7)
"""
ENDS = "raise SystemExit(5)"
STOPS = "lambda *_: sys.exit(7)"
IGNORES = "signal.SIG_IGN"

# Starts a child that ignores SIGTERM, then runs {then}.
HAS_CHILD = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal; print('up', flush=True); signal.pause()"
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print("ready", flush=True)
{then}
"""


@contextmanager
def reaped(code: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run Python code under the reaper."""
    python = [sys.executable, "-I", "-S"]
    command = [*python, str(REAPER), *options, "--", *python, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with process:
            yield process
    finally:
        process.kill()


def wait_for_ready(process: subprocess.Popen[str]) -> None:
    """Wait until the command has printed "ready"."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def end_input(process: subprocess.Popen[str]) -> None:
    """Close the standard input, as the kernel does when the parent dies."""
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 15)", 128 + signal.SIGTERM),
        ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL),
    ],
)
def test_reaper_returns_the_exit_status(code: str, status: int) -> None:
    """The exit status of the command; 128 plus the number of a signal, as in a shell."""
    with reaped(code) as process:
        assert process.wait() == status


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_reaper_stops_the_command_at_end_of_input(name: str) -> None:
    """Standard input ends with the parent; then the command receives its stop signal."""
    with reaped(WAITS.format(name=name, handler=STOPS), options=("--signal", name)) as process:
        wait_for_ready(process)
        end_input(process)
        assert process.wait() == 7


def test_reaper_ignores_bytes_on_input() -> None:
    """Only the end of standard input stops the command."""
    with reaped(WAITS.format(name="TERM", handler=STOPS)) as process:
        wait_for_ready(process)
        assert process.stdin is not None
        process.stdin.write("x" * 10_000)
        process.stdin.flush()
        assert process.poll() is None
        end_input(process)
        assert process.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_reaper_forwards_a_signal_as_the_stop_signal(number: signal.Signals) -> None:
    """SIGTERM and SIGHUP of the reaper send the command its own stop signal."""
    with reaped(WAITS.format(name="INT", handler=STOPS), options=("--signal", "INT")) as process:
        wait_for_ready(process)
        process.send_signal(number)
        assert process.wait() == 7


def test_reaper_sends_the_stop_signal_once() -> None:
    """To the worker a second signal means "at once"; systemd signals every process, and standard input ends as well."""
    with reaped(COUNTS) as process:
        wait_for_ready(process)
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.terminate()
        process.send_signal(signal.SIGHUP)
        end_input(process)
        assert process.wait() == 7


def test_reaper_kills_a_command_that_ignores_the_signal() -> None:
    """It sends SIGKILL after the grace period."""
    with reaped(WAITS.format(name="TERM", handler=IGNORES), options=("--grace", "0.1")) as process:
        wait_for_ready(process)
        end_input(process)
        assert process.wait() == 128 + signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent is killed")
def test_command_ends_with_a_killed_reaper(tmp_path: Path) -> None:
    """SIGKILL of the reaper itself leaves no process behind."""
    with reaped(WAITS.format(name="TERM", handler=STOPS), tmp_path) as process:
        wait_for_ready(process)
        assert len(processes_with(tmp_path)) == 2
        process.kill()
        wait_until(lambda: not processes_with(tmp_path), 10, "the command ends with its reaper")


@pytest.mark.parametrize(
    ("then", "status"), [(ENDS, 5), ("signal.pause()", 128 + signal.SIGTERM)], ids=["ends", "is stopped"]
)
def test_reaper_ends_grandchildren(tmp_path: Path, then: str, status: int) -> None:
    """Children of the command end with it, whether it ends by itself or is stopped."""
    with reaped(HAS_CHILD.format(then=then), tmp_path) as process:
        wait_for_ready(process)
        if then != ENDS:
            assert len(processes_with(tmp_path)) == 3  # the reaper, its command, the command's child
            end_input(process)
        assert process.wait() == status
        wait_until(lambda: not processes_with(tmp_path), 10, "the grandchild ends")


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux can run a command as such a user"
)
def test_command_of_another_user_can_enter_directories_of_root(tmp_path: Path) -> None:
    """With --user a command reads and writes below a directory that only root can enter."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "in").write_text("seen")
    code = "import os, sys; os.chdir(sys.argv[1]); open('out', 'w').write(open('in').read() + str(os.geteuid()))"
    with reaped(code, private, options=("--user", "nobody")) as process:
        assert process.wait() == 0
    account = pwd.getpwnam("nobody")
    assert (private / "out").read_text() == f"seen{account.pw_uid}"
    assert (private / "out").stat().st_uid == account.pw_uid
