"""Dagster's three processes: their command lines, and this process replaced by one of them (exec).

`up` starts them as its children. Containers, Kubernetes and systemd supervise them instead: because of the exec,
signals reach Dagster's process directly, and its exit status is theirs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from viewer_pipeline.files import write_atomically_if_changed
from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.dagster_home import write_dagster_home
from viewer_pipeline.settings import Settings

log = logging.getLogger("viewer_pipeline.dagster")

LOCATION = "viewer_pipeline"  # name of the code location: Dagster identifies sensors and schedules by it
CODE_SERVER_PORT, UI_PORT = 4000, 3000
WORKSPACE = "workspace.yaml"  # in DAGSTER_HOME; ours, rewritten at every start


def code_server_arguments(settings: Settings, host: str, port: int) -> list[str]:
    """Return the Python arguments that start the code server, which executes the runs and serves daemon and UI."""
    code = ["-m", "viewer_pipeline.definitions", "--location-name", LOCATION]
    address = ["-h", host, "-p", str(port)]
    return ["-m", "viewer_pipeline.code_server", *code, *address, *_log_options(settings)]


def daemon_arguments(settings: Settings, workspace: Path) -> list[str]:
    """Return the Python arguments that start the daemon: sensor, schedules, run queue."""
    return [
        "-m",
        "viewer_pipeline.orchestration.daemon_with_clock_watch",
        "run",
        "-w",
        str(workspace),
        *_log_options(settings),
    ]


def webserver_arguments(settings: Settings, workspace: Path, host: str, port: int) -> list[str]:
    """Return the Python arguments that start the UI. It has no login: everyone who can reach it has full control."""
    options = ["-h", host, "-p", str(port), "-w", str(workspace)]
    log_options = _log_options(settings, "--dagster-log-level")  # its --log-level logs each request
    return ["-m", "viewer_pipeline.orchestration.webserver", *options, *log_options]


def write_workspace_file(settings: Settings, code_server_host: str, code_server_port: int) -> Path:
    """Write the address of the code server to the file in DAGSTER_HOME that daemon and UI read; return its path."""
    workspace = write_dagster_home(settings) / WORKSPACE
    server = f"      host: {code_server_host}\n      port: {code_server_port}\n      location_name: {LOCATION}\n"
    write_atomically_if_changed(workspace, f"load_from:\n  - grpc_server:\n{server}")
    return workspace


def fail_orphaned_runs(settings: Settings, *, of_code_server_only: bool = True) -> None:
    """Mark the runs that ended with the previous code server as failed, or all that are launched.

    Dagster launches no others while it takes them for running. Raises PostgresUnavailable.
    """
    from viewer_pipeline.orchestration.dagster_instance import mark_launched_runs_failed, open_instance

    with open_instance(settings) as instance:
        for run_id in mark_launched_runs_failed(instance, of_code_server_only=of_code_server_only):
            log.error(event("run_ended_with_code_server", run_id=run_id))


def exec_code_server(settings: Settings, host: str, port: int) -> NoReturn:
    """Run the code server; there must be exactly one.

    Creates Dagster's tables first. Raises PostgresUnavailable.
    """
    fail_orphaned_runs(settings)
    _exec_python(settings, code_server_arguments(settings, host, port))


def exec_daemon(settings: Settings, code_server_address: tuple[str, int]) -> NoReturn:
    """Run the daemon; there must be exactly one."""
    _exec_python(settings, daemon_arguments(settings, write_workspace_file(settings, *code_server_address)))


def exec_webserver(settings: Settings, code_server_address: tuple[str, int], host: str, port: int) -> NoReturn:
    """Run the UI."""
    _exec_python(
        settings, webserver_arguments(settings, write_workspace_file(settings, *code_server_address), host, port)
    )


def _exec_python(settings: Settings, python_arguments: list[str]) -> NoReturn:
    heed_interrupts()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *python_arguments], settings.child_process_environment())  # noqa: S606 - no shell is wanted


def heed_interrupts() -> None:
    """Have SIGINT end this process and its children again, also where a shell started it with `&` in a script.

    Such a shell has them ignore it, and Dagster does with SIGTERM what is done with SIGINT.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _log_options(settings: Settings, level_option: str = "--log-level") -> list[str]:
    """Return the options for LOG_LEVEL; `debug` is for our own lines. Dagster can log JSON, but not key=value."""
    level = "info" if settings.log_level == "debug" else settings.log_level
    return [level_option, level, "--log-format", "json"]
