"""The fork server of the code server: a process that has imported everything a run needs, and forks the runs.

It is the one of Python's `multiprocessing`. That has no public way to start it as a fork of this process, nor to
replace it: this module uses private attributes of it for both. Without them acceptance/test_warm_runs.py fails.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from multiprocessing import connection, forkserver, resource_tracker, util
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

from viewer_pipeline.code_server.process_lifetime import FORK_SERVER_NAME, ON_LINUX, begin_fork_server, process_name
from viewer_pipeline.logs import event
from viewer_pipeline.settings import LAUNCH_SECONDS

log = logging.getLogger("viewer_pipeline.code_server")

# What a fork server imports that Python starts again: after a crash, or for changed code.
COLD_START_MODULE = "viewer_pipeline.code_server.preload_or_log"

IMPORT_SECONDS = LAUNCH_SECONDS * 2 / 3  # until runs are spawned: that takes the same imports, and is limited too
POLL_SECONDS = 0.02
MAX_DIRECTORY_BYTES = 108 - len("/pymp-12345678/listener-12345678") - 1

_state: dict[str, Any] = vars(vars(forkserver)["_forkserver"])  # of the fork server that this process uses


def is_single_threaded(pid: int | None = None) -> bool:
    """Whether a process (None: this one) has one thread: only then a fork of it waits for no lock of another.

    Threads of C libraries count. False where the system does not tell.
    """
    try:
        return len(list(Path(f"/proc/{pid or 'self'}/task").iterdir())) == 1
    except OSError:
        return False


def can_fork_runs() -> bool:
    """Whether the fork server has imported everything, which is waited for, and a fork of it is safe.

    If it has ended, start a new one.
    """
    deadline = time.monotonic() + IMPORT_SECONDS
    while _ensure_running() and time.monotonic() < deadline:
        pid = _state["_forkserver_pid"]
        if process_name(pid) == FORK_SERVER_NAME:
            return is_single_threaded(pid)
        time.sleep(POLL_SECONDS)
    return False


def _ensure_running() -> bool:
    """Start the fork server if it has ended; return whether it can be reached."""
    if not ON_LINUX:
        return False
    try:
        forkserver.ensure_running()
    except OSError as error:
        _warn_once(error.strerror or str(error))
        return False
    if not Path(_state["_forkserver_address"]).exists():
        _warn_once("its socket was removed")
        return False
    return True


def start_fork_server(home: Path) -> None:
    """Start the fork server. Where that fails, `can_fork_runs` tries again, and logs the reason.

    `home`: a directory that no other code server uses.
    """
    with suppress(OSError):
        _choose_directory_of_sockets(home)
        _start_fork_server()


def _start_fork_server() -> None:
    """Start it as a fork of this process, which has imported everything; else as a new process."""
    forkserver.set_forkserver_preload([COLD_START_MODULE])
    if sys.version_info >= (3, 14) or not is_single_threaded():  # 3.14 wants a key as well
        forkserver.ensure_running()
        return
    resource_tracker.ensure_running()
    with socket.socket(socket.AF_UNIX) as listener:
        address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined] # not in typeshed
        listener.bind(address)
        Path(address).chmod(0o600)  # who can connect can have any code executed
        listener.listen()
        alive_reader, alive_writer = os.pipe()
        gc.collect()
        gc.freeze()  # the collector would write to the pages that both share
        pid = os.fork()
        if pid == 0:
            os.close(alive_writer)
            _serve_forks(listener.detach(), alive_reader)
    os.close(alive_reader)
    _state.update(_forkserver_address=address, _forkserver_alive_fd=alive_writer, _forkserver_pid=pid)


def replace_fork_server() -> None:
    """Have later runs forked from a new process, which imports the code as it is now. Forked runs continue.

    The old server ends with the last of them: they all hold its pipe.
    """
    with _state["_lock"]:
        pid, _state["_forkserver_pid"] = _state["_forkserver_pid"], None
        if pid is not None:
            os.close(_state["_forkserver_alive_fd"])
            Thread(target=os.waitpid, args=[pid, 0], daemon=True).start()
    _ensure_running()


@cache
def _warn_once(reason: str) -> None:
    log.warning(event("fork_server_unavailable", reason=reason))


def _choose_directory_of_sockets(home: Path) -> None:
    """Have `multiprocessing` create its sockets in `home`, without those of a code server that was killed.

    The address of a socket is limited to 108 bytes: where that is too short, in another directory; likewise where
    nothing can be written to `home`. Without any, starting a fork server raises OSError.
    """
    for orphan in home.glob("pymp-*"):
        shutil.rmtree(orphan, ignore_errors=True)
    usual = tempfile.tempdir  # None: Python chooses one
    for directory in (str(home), usual, "/tmp"):  # noqa: S108 - it creates a directory of its own there
        tempfile.tempdir = directory
        with suppress(OSError):
            if len(os.fsencode(tempfile.gettempdir())) <= MAX_DIRECTORY_BYTES:
                util.get_temp_dir()  # keeps it for this process
                break
    tempfile.tempdir = usual


def _serve_forks(listener: int, alive_reader: int) -> NoReturn:
    begin_fork_server()
    status = 1
    try:
        forkserver.main(listener, alive_reader, [])
    except SystemExit:  # the code server and all runs have ended
        status = 0
    finally:
        os._exit(status)
