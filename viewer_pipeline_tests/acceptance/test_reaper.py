"""The guard: a command ends when whoever started it is gone, and takes its own children along."""

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

# Says that it is ready, then waits for signals. NAME is stopped with the exit status 7, or ignored.
WAITS = """
import signal, sys
signal.signal(signal.SIG{name}, {handler})
print("ready", flush=True)
while True:
    signal.pause()
"""
# Takes the stop signal, and ends with 9 if it comes again.
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

# Starts a child of its own that ignores polite signals, and then does {then}.
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
def guarded(code: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run Python code under the guard."""
    python = [sys.executable, "-I", "-S"]
    command = [*python, str(REAPER), *options, "--", *python, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with process:
            yield process
    finally:
        process.kill()


def wait_for_ready(process: subprocess.Popen[str]) -> None:
    """Wait until the command has said so."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def end_input(process: subprocess.Popen[str]) -> None:
    """Do what the kernel does when the parent dies."""
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
def test_exit_status_is_handed_through(code: str, status: int) -> None:
    """The guard ends as its command ended; a signal counts as 128 and its number, as in a shell."""
    with guarded(code) as process:
        assert process.wait() == status


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_end_of_input_sends_the_stop_signal(name: str) -> None:
    """Standard input ends with the parent; then the command gets the signal that it was promised."""
    with guarded(WAITS.format(name=name, handler=STOPS), options=("--signal", name)) as process:
        wait_for_ready(process)
        end_input(process)
        assert process.wait() == 7


def test_what_comes_in_is_not_the_end() -> None:
    """Bytes on standard input stop nothing; only its end does."""
    with guarded(WAITS.format(name="TERM", handler=STOPS)) as process:
        wait_for_ready(process)
        assert process.stdin is not None
        process.stdin.write("x" * 10_000)
        process.stdin.flush()
        assert process.poll() is None
        end_input(process)
        assert process.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sends_the_stop_signal(number: signal.Signals) -> None:
    """A polite stop of the guard is a polite stop of the command, by the command's own signal."""
    with guarded(WAITS.format(name="INT", handler=STOPS), options=("--signal", "INT")) as process:
        wait_for_ready(process)
        process.send_signal(number)
        assert process.wait() == 7


def test_the_stop_signal_is_sent_once() -> None:
    """A second one means "at once": systemd signals every process, and then standard input ends as well."""
    with guarded(COUNTS) as process:
        wait_for_ready(process)
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.terminate()
        process.send_signal(signal.SIGHUP)
        end_input(process)
        assert process.wait() == 7


def test_a_command_that_ignores_the_signal_is_killed() -> None:
    """After the grace."""
    with guarded(WAITS.format(name="TERM", handler=IGNORES), options=("--grace", "0.1")) as process:
        wait_for_ready(process)
        end_input(process)
        assert process.wait() == 128 + signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_a_killed_guard_takes_the_command_along(tmp_path: Path) -> None:
    """SIGKILL of the guard itself leaves nothing behind."""
    with guarded(WAITS.format(name="TERM", handler=STOPS), tmp_path) as process:
        wait_for_ready(process)
        assert len(processes_with(tmp_path)) == 2
        process.kill()
        wait_until(lambda: not processes_with(tmp_path), 10, "the command ends with its guard")


@pytest.mark.parametrize(
    ("then", "status"), [(ENDS, 5), ("signal.pause()", 128 + signal.SIGTERM)], ids=["ends", "is stopped"]
)
def test_grandchildren_do_not_survive(tmp_path: Path, then: str, status: int) -> None:
    """What the command has started ends with it, whether it ends by itself or is stopped."""
    with guarded(HAS_CHILD.format(then=then), tmp_path) as process:
        wait_for_ready(process)
        if then != ENDS:
            assert len(processes_with(tmp_path)) == 3  # the guard, its command, the command's child
            end_input(process)
        assert process.wait() == status
        wait_until(lambda: not processes_with(tmp_path), 10, "the grandchild ends")


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux can run a command as such a user"
)
def test_another_user_may_pass_where_only_root_may(tmp_path: Path) -> None:
    """As root, a command runs as somebody else, and still reads and writes below a directory of root's."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "in").write_text("seen")
    code = "import os, sys; os.chdir(sys.argv[1]); open('out', 'w').write(open('in').read() + str(os.geteuid()))"
    with guarded(code, private, options=("--user", "nobody")) as process:
        assert process.wait() == 0
    account = pwd.getpwnam("nobody")
    assert (private / "out").read_text() == f"seen{account.pw_uid}"
    assert (private / "out").stat().st_uid == account.pw_uid
