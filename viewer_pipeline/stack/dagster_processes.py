"""Dagster's processes under `up`: their supervisor, and the commands to it."""

from __future__ import annotations

import json
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.dagster_command_lines import (
    code_server_arguments,
    daemon_arguments,
    webserver_arguments,
    write_workspace_file,
)
from viewer_pipeline.stack.dagster_supervisor import CODE_SERVER, GRACE_SECONDS, STATE_FILE
from viewer_pipeline.stack.managed_process import ManagedProcess, RestartedProcess, log_tail, rotate_log
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port, loopback_if_any_address
from viewer_pipeline.stack.repeated_lines import RepeatedLines

START_SECONDS = 300  # a process that ends before is reported at once
DAEMON, WEBSERVER = "daemon", "webserver"


class DagsterProcesses:
    """Code server, daemon and webserver, each with a log in VIEWER_HOME."""

    def __init__(
        self, settings: Settings, ui_address: tuple[str, int] | None, *, owns_database: bool, logged: bool
    ) -> None:
        """Prepare them. `owns_database`: all runs in it are ours. `logged`: the supervisor logs to a file."""
        self._home = settings.viewer_home.absolute()
        port = find_free_port()
        workspace = write_workspace_file(settings, LOOPBACK, port)
        self.addresses = {CODE_SERVER: (LOOPBACK, port)}
        commands = {
            CODE_SERVER: code_server_arguments(settings, LOOPBACK, port),
            DAEMON: daemon_arguments(settings, workspace),
        }
        if ui_address is not None:
            commands[WEBSERVER] = webserver_arguments(settings, workspace, *ui_address)
            self.addresses[WEBSERVER] = loopback_if_any_address(ui_address[0]), ui_address[1]
        options = ["--own-database"] if owns_database else []
        program = [sys.executable, "-m", "viewer_pipeline.stack.dagster_supervisor", *options, json.dumps(commands)]
        self._supervisor = RestartedProcess(
            ManagedProcess(
                "Dagster",
                program,
                environment=settings.child_process_environment(),
                log=self._home / "dagster.log" if logged else None,
                grace_seconds=len(commands) * GRACE_SECONDS,
                has_input=True,
            )
        )
        self._started = list[str]()
        names, is_debug = () if logged else (CODE_SERVER, DAEMON), settings.log_level == "debug"
        self._repeated = [RepeatedLines(self._log(name), of_all_levels=is_debug) for name in names]

    def start_supervisor(self) -> None:
        """Start it; what takes long are its imports."""
        (self._home / STATE_FILE).unlink(missing_ok=True)  # of an `up` that was killed
        self._supervisor.process.start()

    def start(self, name: str) -> None:
        """Start one of the processes, and wait until it listens if it does. Raises EmbeddedServerError."""
        self._supervisor.process.write_line(f"start {name}")
        self._started.append(name)
        if name in self.addresses:
            self._wait_until_listening(name)

    def restart_if_ended(self) -> None:
        """Restart the supervisor and all that were started, if it has ended. It restarts the others itself."""
        if self._supervisor.restart_if_ended():
            for name in self._started:
                self._supervisor.process.write_line(f"restart {name}")

    def rotate_logs(self, limit_bytes: int) -> None:
        """Rotate each log of more than `limit_bytes`."""
        for name in (*self._started, "dagster"):
            rotate_log(self._log(name), limit_bytes)

    def repeat_lines(self) -> None:
        """Repeat what they log about flushes, and their warnings, in the foreground, unless the supervisor has none."""
        for lines in self._repeated:
            lines.repeat()

    def stop_launching(self) -> None:
        """Stop the daemon and the webserver, without waiting for it. Runs go on."""
        for name in (DAEMON, WEBSERVER):
            self._supervisor.process.write_line(f"stop {name}")

    def stop(self) -> None:
        """Stop all."""
        self._supervisor.process.stop()
        self.repeat_lines()
        (self._home / STATE_FILE).unlink(missing_ok=True)

    def pids_of(self, name: str) -> list[int]:
        """Return the process id of the process with this name; none while it is down."""
        state = self._read_state(name)
        return [state["pid"]] if state and state["exit_status"] is None else []

    def _log(self, name: str) -> Path:
        return self._home / f"{name}.log"

    def _read_state(self, name: str) -> dict[str, Any] | None:
        try:
            state: dict[str, dict[str, Any]] = json.loads((self._home / STATE_FILE).read_text())
        except FileNotFoundError:
            return None
        return state.get(name)

    def _wait_until_listening(self, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        begin = self._log(name).stat().st_size if self._log(name).exists() else 0
        while True:
            with suppress(OSError), socket.create_connection(self.addresses[name], timeout=1):
                return
            state = self._read_state(name)
            ended = self._supervisor.process.exit_status() is not None or (state and state["exit_status"] is not None)
            if ended or time.monotonic() > deadline:
                tail = log_tail(self._log(name), begin) or self._supervisor.process.log_tail()
                raise EmbeddedServerError(f"the {name} does not start; the end of its log:\n{tail}")
            time.sleep(0.05)
