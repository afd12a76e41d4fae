"""One of Dagster's processes in place of this one, with our settings, our dagster.yaml and our storage.

For whoever keeps the processes running by other means than `up`: containers, Kubernetes, systemd. This process becomes
Dagster's (exec), so that a signal reaches it and its exit status is seen.
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


def become_code_server(settings: Settings, host: str, port: int) -> NoReturn:
    """Run the code server; there must be one.

    Makes Dagster's tables first. Runs of the code server before it ended with it: they are marked as failed, or none
    would be launched until their time is over. Raises PostgresUnavailable.
    """
    with open_instance(settings) as instance:
        for run_id in fail_orphans(instance, launched_only=True):
            log.error(event("run ended with the code server", run=run_id))
    _become(settings, dagster_processes.code_server(settings, host, port))


def become_daemon(settings: Settings, code_server: tuple[str, int]) -> NoReturn:
    """Run the daemon; there must be one."""
    workspace = dagster_processes.write_workspace(prepare_home(settings), *code_server)
    _become(settings, dagster_processes.daemon(settings, workspace))


def become_webserver(settings: Settings, code_server: tuple[str, int], host: str, port: int) -> NoReturn:
    """Run the UI."""
    workspace = dagster_processes.write_workspace(prepare_home(settings), *code_server)
    _become(settings, dagster_processes.webserver(settings, workspace, host, port))


def _become(settings: Settings, arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *arguments], settings.environment())  # noqa: S606 - no shell is wanted
