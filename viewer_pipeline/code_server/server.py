"""Dagster's code server, with runs that are forked from a process that has imported everything (ADR 0018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess, SpawnProcess
from typing import Any

from dagster._cli.api import grpc_command
from dagster._grpc import server as dagster_server
from dagster._grpc.__generated__ import dagster_api_pb2

from viewer_pipeline.code_server.fork_server import can_fork_runs, replace_fork_server, start_fork_server
from viewer_pipeline.code_server.process_lifetime import end_with_fork_server, end_with_starting_process
from viewer_pipeline.logs import configure_package_logging, configure_root_logging
from viewer_pipeline.orchestration.settings_resource import LOADED


class RunProcesses:
    """What the code server uses of a `multiprocessing` context: runs are forked where that is safe, else spawned."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.Queue, self.Event = context.Queue, context.Event

    def Process(self, target: Callable[..., None], args: Sequence[Any]) -> ForkServerProcess | SpawnProcess:  # noqa: N802 - the name of multiprocessing
        """Return the process of a run, not started."""
        process = ForkServerProcess if LOADED.warm_runs and can_fork_runs() else SpawnProcess
        return process(target=_execute_run, args=[target, *args])


class CodeServer(dagster_server.DagsterApiServer):
    """Dagster's code server with warm runs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._mp_ctx = RunProcesses()  # type: ignore[assignment] # has all that is used of it

    def ReloadCode(  # noqa: N802 - the name of Dagster's
        self, _request: dagster_api_pb2.ReloadCodeRequest, _context: Any
    ) -> dagster_api_pb2.ReloadCodeReply:
        """Have the next runs execute the code as it is now. The definitions in this process stay as they are."""
        if LOADED.warm_runs:
            replace_fork_server()
        return dagster_api_pb2.ReloadCodeReply()


def _execute_run(target: Callable[..., None], *args: Any) -> None:
    """Execute a run in its process, which ends with those that report the run as failed when they do not see it."""
    end_with_fork_server()
    end_with_starting_process()
    configure_root_logging(LOADED)
    target(*args)


def serve(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM; the arguments are those of `dagster api grpc`. Call it in a process with one thread."""
    if LOADED.warm_runs:
        import_module("viewer_pipeline.code_server.preload")
        start_fork_server(LOADED.dagster_directory)
    configure_package_logging(LOADED)  # not before: runs log through Dagster
    dagster_server.DagsterApiServer = CodeServer  # type: ignore[misc] # the command has no other way to name a class
    grpc_command.main(args=list(arguments), prog_name="dagster api grpc")
