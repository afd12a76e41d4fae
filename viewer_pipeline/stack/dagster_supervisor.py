"""The process of which Dagster's processes are forks: it has imported everything, and restarts those that end.

`python -m viewer_pipeline.stack.dagster_supervisor [--own-database] '{"NAME": ["-m", "MODULE", "ARGUMENT", ...], ...}'`

What they share is in memory once. Reads commands from standard input, one a line: `start NAME`, `stop NAME`, and
`restart NAME` for what an earlier supervisor had started. The end of input stops all. Where forking is not safe, or
with WARM_RUNS=false, each process imports everything itself.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

from viewer_pipeline.code_server.fork_server import is_single_threaded
from viewer_pipeline.code_server.process_lifetime import ON_LINUX
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.files import write_atomically_if_changed
from viewer_pipeline.logs import configure_package_logging
from viewer_pipeline.orchestration.exit_with_error import exit_with_error
from viewer_pipeline.settings import Settings, load_settings
from viewer_pipeline.stack.dagster_command_lines import fail_orphaned_runs, heed_interrupts
from viewer_pipeline.stack.forked_process import ForkedProcess, fork_and_call
from viewer_pipeline.stack.managed_process import RestartedProcess

# Not the modules that are executed: these are executed as they are.
PRELOADED = (
    "viewer_pipeline.code_server.preload",
    "dagster._daemon.cli",
    "dagster_webserver.cli",
    "uvicorn.protocols.http.auto",
    "uvicorn.loops.auto",
    "uvicorn.protocols.websockets.auto",
)
CODE_SERVER = "code-server"
STATE_FILE = "dagster-processes.json"  # in VIEWER_HOME: name -> pid, and exit status once it has ended
POLL_SECONDS = 0.5  # how often it checks for processes that ended
GRACE_SECONDS = 3.0  # Dagster keeps its state in its database: there is nothing to wait for


class _Supervisor:
    def __init__(self, settings: Settings, commands: dict[str, list[str]], *, owns_database: bool) -> None:
        self._settings = settings
        self._home = settings.viewer_home
        self._warm = settings.warm_runs and ON_LINUX and _preload()
        self._processes = {
            name: RestartedProcess(ForkedProcess(name, arguments, self._home / f"{name}.log", warm=self._warm))
            for name, arguments in commands.items()
        }
        self._actions: dict[str, Callable[[str], None]] = {
            "start": partial(self._start, of_code_server_only=not owns_database),
            "restart": partial(self._start, of_code_server_only=True),
            "stop": self._stop,
        }
        self._wanted = dict[str, RestartedProcess[ForkedProcess]]()
        self._stopping = False
        self._state = dict[str, dict[str, int | None]]()

    def request_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Have `run` end, in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Carry out the commands on standard input until it ends, or a stop is requested; then stop all processes."""
        unread = b""
        while not self._stopping:
            if select.select([0], [], [], POLL_SECONDS)[0]:
                if not (read := os.read(0, 4096)):
                    break
                *lines, unread = (unread + read).split(b"\n")
                for line in lines:
                    command, _, name = line.decode().partition(" ")
                    self._actions[command](name)
            for process in self._wanted.values():
                process.restart_if_ended()
            self._write_state()
        for name in sorted(self._wanted, key=CODE_SERVER.__eq__):  # the runs are children of the code server
            self._stop(name)

    def _start(self, name: str, *, of_code_server_only: bool) -> None:
        process = self._wanted[name] = self._processes[name]
        if name == CODE_SERVER:
            self._fail_orphaned_runs(of_code_server_only=of_code_server_only)
            process.before_restart = partial(self._fail_orphaned_runs, of_code_server_only=True)
        process.process.start()
        self._write_state()

    def _stop(self, name: str) -> None:
        if (process := self._wanted.pop(name, None)) is not None:
            process.process.stop(GRACE_SECONDS)

    def _fail_orphaned_runs(self, *, of_code_server_only: bool) -> None:
        """Mark them as failed; in a fork where that is safe, because what it connects to is of no use afterwards.

        Raises ViewerPipelineError.
        """
        fail_runs = partial(fail_orphaned_runs, self._settings, of_code_server_only=of_code_server_only)
        if self._warm:
            _, status = os.waitpid(fork_and_call(fail_runs), 0)
            if status:
                raise ViewerPipelineError("runs that have ended are not marked as failed; the reason is above")
        else:
            fail_runs()

    def _write_state(self) -> None:
        processes = [each.process for each in self._wanted.values()]
        state = {each.name: {"pid": each.pid, "exit_status": each.exit_status()} for each in processes}
        if state != self._state:
            write_atomically_if_changed(self._home / STATE_FILE, json.dumps(state))
            self._state = state


def _preload() -> bool:
    """Import what the processes need; return whether forks of this process can use it."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # the collector would write to the pages that are shared
    return is_single_threaded()


def main() -> None:
    """Supervise the processes of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--own-database", action="store_true", help="no other stack has runs in it")
    parser.add_argument("commands", type=json.loads)
    options = parser.parse_args()
    settings = load_settings()
    configure_package_logging(settings)
    heed_interrupts()
    try:
        supervisor = _Supervisor(settings, options.commands, owns_database=options.own_database)
        signal.signal(signal.SIGTERM, supervisor.request_stop)
        supervisor.run()
    except ViewerPipelineError as error:
        exit_with_error(error)
    except BaseException as error:
        if _is_interrupt(error):
            sys.exit(128 + signal.SIGTERM)
        raise


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is what Dagster has SIGTERM raise during the imports, or during the run with which they end."""
    from dagster import DagsterExecutionInterruptedError  # noqa: PLC0415 - as the imports of PRELOADED

    return isinstance(error, (KeyboardInterrupt, DagsterExecutionInterruptedError))


if __name__ == "__main__":
    main()
