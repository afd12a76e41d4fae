"""The command lines of Dagster's three processes, for `up`, containers and systemd."""

from __future__ import annotations

from pathlib import Path

from viewer_pipeline.files import write_atomically
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK

LOCATION = "viewer_pipeline"  # name of the code location: Dagster identifies sensors and schedules by it
CODE_SERVER_PORT, UI_PORT = 4000, 3000
WORKSPACE = "workspace.yaml"  # in DAGSTER_HOME; ours, rewritten at every start


def code_server(settings: Settings, host: str, port: int) -> list[str]:
    """Return the Python arguments that start the code server, which executes the runs and serves daemon and UI."""
    code = ["-m", "viewer_pipeline.definitions", "--location-name", LOCATION]
    return ["-m", "dagster", "api", "grpc", *code, "-h", host, "-p", str(port), *_log_options(settings)["grpc"]]


def daemon(settings: Settings, workspace: Path) -> list[str]:
    """Return the Python arguments that start the daemon: sensor, schedules, run queue."""
    return ["-m", "dagster._daemon", "run", "-w", str(workspace), *_log_options(settings)["daemon"]]


def webserver(settings: Settings, workspace: Path, host: str, port: int) -> list[str]:
    """Return the Python arguments that start the UI. It has no login: everyone who can reach it has full control."""
    options = ["-h", host, "-p", str(port), "-w", str(workspace)]
    return ["-m", "dagster_webserver", *options, *_log_options(settings)["webserver"]]


def write_workspace(dagster_home: Path, host: str = LOOPBACK, port: int = CODE_SERVER_PORT) -> Path:
    """Write the address of the code server to the file that daemon and UI read; return its path."""
    workspace = dagster_home / WORKSPACE
    server = f"      host: {host}\n      port: {port}\n      location_name: {LOCATION}\n"
    write_atomically(workspace, f"load_from:\n  - grpc_server:\n{server}")
    return workspace


def _log_options(settings: Settings) -> dict[str, list[str]]:
    """Return the options for LOG_LEVEL of each process. Dagster can log JSON, but not key=value."""
    log_format = ["--log-format", "json"]
    level = ["--log-level", settings.log_level]
    return {
        "grpc": [*level, *log_format],
        "daemon": [*level, *log_format],
        "webserver": ["--dagster-log-level", settings.log_level, *log_format],  # its --log-level logs each request
    }
