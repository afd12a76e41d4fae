"""Commands of the command line, each in a process that is forked from one with the slow imports done.

A command spends most of its time on imports, which for hundreds of commands would be most of `make test`. Environment,
working directory, arguments, stdout, stderr and exit status are those of a new process.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from typing import NamedTuple

# None of them reads a setting while it is imported.
SLOW_IMPORTS = (
    "dagster",
    "dagster_postgres",
    "pandas",
    "alembic.command",
    "rich.console",
    "viewer_pipeline.flush.commit",
    "viewer_pipeline.flush.verify",
    "viewer_pipeline.monitoring.status",
)
MAX_MESSAGE_BYTES = 1 << 20


class Request(NamedTuple):
    """A command to run."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `viewer-pipeline` to its end, in a directory without a checkout."""
    server = _server()
    request = Request(list(arguments), environment, environment["HOME"])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        socket.send_fds(server, [json.dumps(request).encode()], [out.fileno(), err.fileno()])
        status = server.recv(100)
        assert status, "the process that commands are forked from has ended"
        for file in (out, err):
            file.seek(0)
        stdout, stderr = out.read().decode(), err.read().decode()
    return subprocess.CompletedProcess(arguments, int(status), stdout, stderr)


@functools.cache
def _server() -> socket.socket:
    """Start the process that commands are forked from; it ends when this process does."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE") if name in os.environ
    }
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(its.fileno())], env=environment, pass_fds=[its.fileno()]
        )

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


def _serve(requests: socket.socket) -> tuple[Request, list[int]] | None:
    """Fork for each request. Returns in the child, with its request; in the parent at the end."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MAX_MESSAGE_BYTES, 2)
        if not message:
            return None
        assert threading.active_count() == 1, threading.enumerate()
        pid = os.fork()
        if pid == 0:
            return Request(*json.loads(message)), files
        for file in files:
            os.close(file)
        _, status = os.waitpid(pid, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _run_command(request: Request, files: list[int]) -> None:
    """Run a command as in a new process, and end."""
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = ["viewer-pipeline", *request.arguments]
    status = 1
    try:
        runpy.run_module("viewer_pipeline.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        _end(status)


def _end(status: int) -> None:
    """End as Python does, but without freeing all modules, which would take half a second."""
    if (error := sys.exception()) is not None and not isinstance(error, SystemExit):
        traceback.print_exc()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        for name in SLOW_IMPORTS:
            importlib.import_module(name)
        gc.freeze()
        work = _serve(requests)
    if work is not None:
        _run_command(*work)


if __name__ == "__main__":
    _main()
