"""Replace this process by one of Dagster's (exec), with our settings, our dagster.yaml and our storage.

For containers, Kubernetes and systemd, which supervise the processes instead of `up`. Because of the exec, signals
reach Dagster's process directly, and its exit status is theirs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from viewer_pipeline.logs import event
from viewer_pipeline.orchestration.instance import fail_orphans, open_instance, prepare_home
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack import dagster_processes

log = logging.getLogger("viewer_pipeline.dagster")


def exec_code_server(settings: Settings, host: str, port: int) -> NoReturn:
    """Run the code server; there must be exactly one.

    Creates Dagster's tables first. Runs of the previous code server ended with it: they are marked as failed, because
    Dagster launches no others while it takes them for running. Raises PostgresUnavailable.
    """
    with open_instance(settings) as instance:
        for run_id in fail_orphans(instance, launched_only=True):
            log.error(event("run ended with the code server", run=run_id))
    _exec(settings, dagster_processes.code_server(settings, host, port))


def exec_daemon(settings: Settings, code_server: tuple[str, int]) -> NoReturn:
    """Run the daemon; there must be exactly one."""
    workspace = dagster_processes.write_workspace(prepare_home(settings), *code_server)
    _exec(settings, dagster_processes.daemon(settings, workspace))


def exec_webserver(settings: Settings, code_server: tuple[str, int], host: str, port: int) -> NoReturn:
    """Run the UI."""
    workspace = dagster_processes.write_workspace(prepare_home(settings), *code_server)
    _exec(settings, dagster_processes.webserver(settings, workspace, host, port))


def _exec(settings: Settings, arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *arguments], settings.environment())  # noqa: S606 - no shell is wanted
