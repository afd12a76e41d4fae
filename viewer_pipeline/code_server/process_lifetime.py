"""Processes that end when another one ends, however that ends: what is reported as failed must not go on."""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from threading import Thread

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # linux/prctl.h
FORK_SERVER_NAME = "run-fork-server"
ON_LINUX = sys.platform == "linux"

_fork_server_pid: int | None = None  # of the fork server from which this process was forked


def set_process_name(name: str) -> None:
    """Set the name that `ps` and `top` show as COMMAND, at most 15 characters. Nothing where there is no prctl."""
    if ON_LINUX:
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def process_name(pid: int | None) -> str:
    """Return the name that a process has set, or got from its program; empty if there is none. Linux only."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def end_with_forking_process(parent_pid: int) -> None:
    """Have the kernel kill this process when the one that forked it ends. For a child, right after the fork."""
    if ON_LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before
        os._exit(1)


def begin_fork_server() -> None:
    """Name this process, which has imported everything, and remember that the forks of it are its children."""
    global _fork_server_pid  # noqa: PLW0603 - forks inherit it
    _fork_server_pid = os.getpid()
    set_process_name(FORK_SERVER_NAME)


def end_with_fork_server() -> None:
    """Have the kernel kill this process when its fork server ends; nothing if it was not forked from one."""
    if _fork_server_pid is not None:
        end_with_forking_process(_fork_server_pid)


def end_with_starting_process() -> None:
    """Have this process killed when the one that called `multiprocessing.Process.start` for it ends.

    That is not its parent where a fork server is: the end shows on a pipe. Linux sends SIGKILL then, to a stopped
    process as well. Elsewhere a thread watches the pipe.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None, "for processes of multiprocessing"
    pipe = starter.sentinel
    if ON_LINUX:
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, int(signal.SIGKILL))
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    else:
        Thread(target=_kill_this_process_after, args=[pipe], daemon=True).start()
    if connection.wait([pipe], 0):  # it ended before
        os._exit(1)


def _kill_this_process_after(pipe: int) -> None:
    connection.wait([pipe])
    os.kill(os.getpid(), signal.SIGKILL)
