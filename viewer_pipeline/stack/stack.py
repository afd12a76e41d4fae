"""The stack: embedded servers where no URL is set, Dagster and the worker, supervised on one machine."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO

from viewer_pipeline.errors import EmbeddedServerError, SettingsError, ViewerPipelineError
from viewer_pipeline.files import write_private
from viewer_pipeline.flush.adoption import AdoptionMode, adopt_pipeline
from viewer_pipeline.flush.ledger import require_target
from viewer_pipeline.flush.marker_ownership import register_pipeline_if_reachable
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.home_lock_and_server_urls import SERVERS_FILE, lock_home_directory
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack import dagster_command_lines
from viewer_pipeline.stack.daemon_lock import DaemonLock
from viewer_pipeline.stack.managed_process import ManagedProcess, RestartedProcess
from viewer_pipeline.stack.ports import LOOPBACK, PortReservations, find_free_port, loopback_if_any_address
from viewer_pipeline.stack.postgres_and_redis_migration import migrate_postgres_and_redis
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stop_signals import StopRequest
from viewer_pipeline.stores.redis_durability_wait import require_durability_support

log = logging.getLogger("viewer_pipeline.stack")

CODE_SERVER_SECONDS = 120
POLL_SECONDS = 0.5  # how often it checks for processes that ended
LOG_BYTES = 20_000_000  # of each log in VIEWER_HOME, and as much again for its predecessor
DAGSTER_GRACE_SECONDS = 3.0  # Dagster keeps its state in its database: there is nothing to wait for
AFTER_WORKER_MS = 5000  # of the time for a stop, reserved for the code server and the embedded servers


class Stack:
    """Starts all processes, restarts those that end, stops them in order."""

    def __init__(
        self,
        settings: Settings,
        *,
        throw_away: bool = False,
        background: bool = False,
        ui: bool = True,
        ui_host: str = LOOPBACK,
        adopt: AdoptionMode | None = None,
    ) -> None:
        """Prepare it; nothing is started yet.

        `throw_away`: data need not survive a crash. `background`: the worker logs to a file and flushes nothing when it
        stops, and the usual ports stay free. `ui_host`: the address that the UI is served on; it has no login.
        `adopt`: first give the counters to this database, if they belong to another one in Redis.
        """
        self._ports = PortReservations()
        self.settings = settings.copy_unvalidated(
            health_check_port=_reserve_health_port(settings, self._ports, usual=not background)
        )
        self.ui_host, self.ui_port = ui_host, self._ports.reserve(dagster_command_lines.UI_PORT) if ui else None
        self._home = settings.viewer_home.absolute()
        self._home.mkdir(parents=True, exist_ok=True)
        self._throw_away, self._background = throw_away, background
        self._adopt = adopt
        self._lock: IO[str] | None = None
        self._daemon_lock: DaemonLock | None = None
        self._owns_postgres = settings.database_url is None and settings.dagster_database_url is None
        self._servers: list[PostgresServer | RedisServer] = []
        self._supervised: list[RestartedProcess] = []

    def start(self, on_progress: Callable[[str], None]) -> None:
        """Start everything. Raises ViewerPipelineError, after stopping what was started."""
        self._lock = lock_home_directory(self._home)
        try:
            self._start_embedded_servers(on_progress)
            require_durability_support(self.settings)
            self._daemon_lock = DaemonLock(self.settings)
            self._daemon_lock.acquire()
            on_progress("migrating the schema `viewer`")
            migrate_postgres_and_redis(self.settings, on_progress, exclusive=self._owns_postgres)
            if self._adopt is not None:
                with Stores.open(self.settings) as stores:
                    adoption = adopt_pipeline(stores, self._adopt)
                on_progress(f"the counters {adoption.prefix}* belong to {adoption.place}")
            register_pipeline_if_reachable(self.settings)
            require_target(self.settings)
            self._start_dagster_and_worker(on_progress)
        except BaseException:
            self.stop(on_progress)
            raise

    def pids_of(self, name: str) -> list[int]:
        """Return the process ids of the process with this name and its children; empty while it is down. Linux only."""
        return [pid for process in self._all_processes() if process.name == name for pid in process.descendant_pids()]

    def restart_ended_until(self, stop: StopRequest) -> None:
        """Restart processes that end, until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            for server in self._servers:
                if (status := server.process.exit_status()) is not None:
                    log.error(event("server ended; restarting it", name=server.process.name, status=status))
                    try:
                        server.start()
                    except ViewerPipelineError:
                        log.exception(event("server does not start", name=server.process.name))
            for supervised in self._supervised:
                supervised.restart_if_ended()
            for process in self._all_processes():
                process.rotate_log(LOG_BYTES)

    def stop(self, on_progress: Callable[[str], None]) -> int:
        """Stop everything in order, within SHUTDOWN_TIMEOUT_MS. Return the worker's exit status. Idempotent.

        Launching and receiving end at once. The worker folds the messages it has received, waits for a running flush,
        and flushes the pending views. The code server, whose children the runs are, and the servers are stopped later.
        """
        processes = {supervised.process.name: supervised.process for supervised in self._supervised}
        self._supervised.clear()
        for name in processes.keys() - {"code server"}:
            processes[name].request_stop()
        statuses = {}
        for name in ("worker", "daemon", "webserver", "code server"):
            if name in processes:
                on_progress(f"stopping the {name}")
                statuses[name] = processes[name].stop()
        if self._daemon_lock is not None:
            self._daemon_lock.release()
        for server in reversed(self._servers):
            on_progress(f"stopping {server.process.name}")
            server.stop()
        self._servers.clear()
        self._ports.release()
        if self._lock is not None:  # else the file belongs to the stack that holds the lock
            (self._home / SERVERS_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        return statuses.get("worker", 0)

    def _all_processes(self) -> list[ManagedProcess]:
        return [each.process for each in (*self._supervised, *self._servers)]

    def _start_embedded_servers(self, on_progress: Callable[[str], None]) -> None:
        updates: dict[str, str] = {}

        def start(setting: str, name: str, server: PostgresServer | RedisServer) -> None:
            on_progress(f"starting {name} on port {server.port}")
            self._servers.append(server)
            server.start()
            updates[setting] = server.url

        if self.settings.database_url is None:
            postgres = PostgresServer(self._home, port=self._free_port_if_background(), throw_away=self._throw_away)
            start("database_url", "PostgreSQL", postgres)
        if self.settings.redis_url is None:
            start("redis_url", "Redis", RedisServer(self._home, port=self._free_port_if_background()))
        self.settings = self.settings.copy_unvalidated(**updates)
        write_private(self._home / SERVERS_FILE, json.dumps(updates))

    def _free_port_if_background(self) -> int | None:
        return find_free_port() if self._background else None

    def _start_dagster_and_worker(self, on_progress: Callable[[str], None]) -> None:
        from viewer_pipeline.orchestration.dagster_instance import (  # Dagster: 2 s
            mark_launched_runs_failed,
            open_instance,
        )

        port = find_free_port()
        workspace = dagster_command_lines.write_workspace_file(self.settings, LOOPBACK, port)
        on_progress("starting Dagster's code server")
        code_server = self._start_python(
            "code server", *dagster_command_lines.code_server_arguments(self.settings, LOOPBACK, port)
        )
        with open_instance(self.settings) as instance:  # creates Dagster's tables before several processes try to
            if self._owns_postgres:
                for run_id in mark_launched_runs_failed(instance):
                    on_progress(f"run {run_id} had not ended; marked as failed")
        on_progress("starting the worker")
        flush_at_stop = "--no-last-flush" if self._background else "--last-flush"
        self._start_python("worker", "-m", "viewer_pipeline.cli", "worker", flush_at_stop, logged=self._background)
        if self._owns_postgres:
            code_server.before_restart = partial(dagster_command_lines.fail_runs_of_previous_code_server, self.settings)
        _wait_until_listening(code_server.process, port)
        on_progress("starting Dagster's daemon")
        self._start_python("daemon", *dagster_command_lines.daemon_arguments(self.settings, workspace))
        if self.ui_port is not None:
            on_progress(f"starting Dagster's webserver on port {self.ui_port}")
            ui = dagster_command_lines.webserver_arguments(self.settings, workspace, self.ui_host, self.ui_port)
            webserver = self._start_python("webserver", *ui)
            _wait_until_listening(webserver.process, self.ui_port, loopback_if_any_address(self.ui_host))

    def _start_python(self, name: str, *arguments: str, logged: bool = True) -> RestartedProcess:
        stop_ms = self.settings.shutdown_timeout_ms
        worker_ms = max(stop_ms - AFTER_WORKER_MS, stop_ms // 2)  # the servers that it needs are stopped after it
        process = ManagedProcess(
            name,
            [sys.executable, *arguments],
            environment=self.settings.copy_unvalidated(shutdown_timeout_ms=worker_ms).child_process_environment(),
            log=self._home / f"{name.replace(' ', '-')}.log" if logged else None,
            grace_seconds=worker_ms / 1000 + 1 if name == "worker" else DAGSTER_GRACE_SECONDS,
        )
        process.start()
        supervised = RestartedProcess(process)
        self._supervised.append(supervised)
        return supervised


def _reserve_health_port(settings: Settings, ports: PortReservations, *, usual: bool) -> int:
    """Return HEALTH_CHECK_PORT if it is set; else the usual port if it is free and `usual`, else any free port."""
    wanted, is_set = settings.health_check_port, "health_check_port" in settings.model_fields_set
    free = ports.reserve(wanted if is_set or usual else None)
    if is_set and free != wanted:
        ports.release()
        raise SettingsError(f"HEALTH_CHECK_PORT={wanted}: another process listens on this port")
    return free


def _wait_until_listening(process: ManagedProcess, port: int, host: str = LOOPBACK) -> None:
    deadline = time.monotonic() + CODE_SERVER_SECONDS
    while True:
        with suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        if process.exit_status() is not None or time.monotonic() > deadline:
            raise EmbeddedServerError(f"the {process.name} does not start; the end of its log:\n{process.log_tail()}")
        time.sleep(0.05)
