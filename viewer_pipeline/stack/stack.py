"""The stack: embedded servers where no URL is set, Dagster and the worker, supervised on one machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import IO

from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.files import write_private
from viewer_pipeline.flush.adoption import AdoptionMode, adopt_pipeline
from viewer_pipeline.flush.ledger import require_standby_support, require_target
from viewer_pipeline.flush.marker_ownership import register_pipeline_if_reachable
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.home_lock_and_server_urls import (
    ADDRESSES,
    SERVERS_FILE,
    SETTINGS,
    STARTED_AT,
    STARTING,
    lock_home_directory,
    make_directory,
)
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.settings_of_running_up import settings_for_servers_file
from viewer_pipeline.stack.celery_workers import CeleryWorkers
from viewer_pipeline.stack.daemon_lock import DaemonLock
from viewer_pipeline.stack.dagster_processes import DAEMON, WEBSERVER, DagsterProcesses
from viewer_pipeline.stack.dagster_supervisor import CODE_SERVER
from viewer_pipeline.stack.kept_ports import KeptPorts, Service
from viewer_pipeline.stack.managed_process import ManagedProcess, RestartedProcess, rotate_log
from viewer_pipeline.stack.port_choice import (
    POSTGRES,
    REDIS,
    require_free_chosen_ports,
    require_own_addresses,
    reserve_health_port,
    reserve_ui_port,
)
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.postgres_and_redis_migration import migrate_postgres_and_redis
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stop_signals import StopRequest
from viewer_pipeline.stores.redis_durability_wait import require_durability_support

log = logging.getLogger("viewer_pipeline.stack")

POLL_SECONDS = 0.5  # how often it checks for processes that ended
LOG_BYTES = 20_000_000  # of each log in VIEWER_HOME, and as much again for its predecessor
SERVER_NAMES = {service.key: service.name for service in (POSTGRES, REDIS)}  # by the name of the process
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
        ui_port: int | None = None,
        adopt: AdoptionMode | None = None,
        celery_workers: int = 0,
    ) -> None:
        """Prepare it; nothing is started yet.

        `throw_away`: data need not survive a crash. `background`: the worker logs to a file and flushes nothing when it
        stops, and the usual ports stay free. `ui_host`: the address that the UI is served on; it has no login.
        `ui_port`: its port (default: that of the latest start, else the usual one).
        `celery_workers`: so many of them execute the runs, with a broker of their own; 0: the code server does.
        `adopt`: first give the counters to this database, if they belong to another one in Redis.
        """
        self.settings = self._given_settings = settings
        self._has_ui, self._ui_host, self._ui_port = ui, ui_host, ui_port
        self._home = settings.viewer_home.absolute()
        make_directory(self._home, "VIEWER_HOME")
        self._ports = KeptPorts(self._home)
        self._throw_away, self._background = throw_away, background
        self._adopt = adopt
        self.ui_address: tuple[str, int] | None = None
        self._lock: IO[str] | None = None
        self._started_at = 0.0
        self._daemon_lock: DaemonLock | None = None
        self._owns_postgres = settings.database_url is None and settings.dagster_database_url is None
        self._servers: list[PostgresServer | RedisServer] = []
        self._worker: RestartedProcess[ManagedProcess] | None = None
        self._dagster: DagsterProcesses | None = None
        self.celery = CeleryWorkers(self._home, celery_workers) if celery_workers else None

    @property
    def port_warnings(self) -> list[str]:
        """A sentence for each port that is not the wanted one."""
        return self._ports.warnings

    def start(self, on_progress: Callable[[str], None]) -> None:
        """Start everything. Raises ViewerPipelineError, after stopping what was started."""
        self._lock = lock_home_directory(self._home)
        self._started_at = time.time()
        try:
            self._start_embedded_servers(on_progress)
            require_durability_support(self.settings)
            self._daemon_lock = DaemonLock(self.settings)
            self._daemon_lock.acquire()
            self._choose_ports()
            if self.celery is not None:
                on_progress("starting the broker of Celery")
                self.settings = self.settings.copy_unvalidated(celery_broker_url=self.celery.start_broker())
            self._dagster = DagsterProcesses(
                self.settings, self.ui_address, owns_database=self._owns_postgres, logged=self._background
            )
            self._write_servers_file(self._dagster, is_starting=True)
            self._dagster.start_supervisor()  # its imports take longer than the migration
            on_progress("migrating the schema `viewer`")
            migrate_postgres_and_redis(self.settings, on_progress, exclusive=self._owns_postgres)
            if self._adopt is not None:
                with Stores.open(self.settings) as stores:
                    adoption = adopt_pipeline(stores, self._adopt)
                on_progress(f"the counters {adoption.prefix}* belong to {adoption.place}")
            register_pipeline_if_reachable(self.settings)
            require_target(self.settings)
            require_standby_support(self.settings)
            self._start_dagster_and_worker(self._dagster, on_progress)
            self._write_servers_file(self._dagster, is_starting=False)
        except BaseException:
            self.stop(on_progress)
            raise

    def pids_of(self, name: str) -> list[int]:
        """Return the process ids of the process with this name, itself first; empty while it is down. Linux only.

        With the children of `postgres` and `worker`; without those of `code-server`, `daemon` and `webserver`.
        """
        for process in self._managed_processes():
            if process.name == name:
                return process.descendant_pids()
        return self._dagster.pids_of(name) if self._dagster else []

    def restart_ended_until(self, stop: StopRequest) -> None:
        """Restart processes that end, until `stop` is set."""
        while not stop.wait(POLL_SECONDS):
            for server in self._servers:
                if (status := server.process.exit_status()) is not None:
                    name, log_file = server.process.name, server.process.log
                    log.error(event("server_ended", name=name, status=status, log=log_file))
                    try:
                        server.start()
                    except ViewerPipelineError:
                        log.exception(event("server_start_failed", name=name))
                    else:
                        log.info(event("server_restarted", name=name))
            if self._worker is not None:
                self._worker.restart_if_ended()
            if self._dagster is not None:
                self._dagster.restart_if_ended()
                self._dagster.repeat_lines()
                self._dagster.rotate_logs(LOG_BYTES)
            for process in self._managed_processes():
                if process.log is not None:
                    rotate_log(process.log, LOG_BYTES)

    def stop(self, on_progress: Callable[[str], None]) -> int:
        """Stop everything in order, within SHUTDOWN_TIMEOUT_MS. Return the worker's exit status. Idempotent.

        Launching and receiving end at once. The worker folds the messages it has received, waits for a running flush,
        and flushes the pending views. The code server, whose children the runs are, and the servers are stopped later.
        """
        status = 0
        if self._dagster is not None:
            self._dagster.stop_launching()
        if self._worker is not None:
            on_progress("stopping the worker")
            status = self._worker.process.stop()
            self._worker = None
        if self.celery is not None:
            on_progress("stopping Celery workers")
            self.celery.stop()
        if self._dagster is not None:
            on_progress("stopping Dagster")
            self._dagster.stop()
            self._dagster = None
        if self._daemon_lock is not None:
            self._daemon_lock.release()
        for server in reversed(self._servers):
            on_progress(f"stopping {SERVER_NAMES[server.process.name]}")
            server.stop()
        self._servers.clear()
        self._ports.release()
        if self._lock is not None:  # else the file belongs to the stack that holds the lock
            (self._home / SERVERS_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        return status

    def _managed_processes(self) -> list[ManagedProcess]:
        servers = [server.process for server in self._servers]
        return servers if self._worker is None else [self._worker.process, *servers]

    def _choose_ports(self) -> None:
        """Raises SettingsError if a port that must not be another is taken."""
        if self._background:  # beside the stack for which HEALTH_CHECK_PORT may be set
            self.settings = self.settings.copy_unvalidated(health_check_port=self._ports.reserve_any())
        else:
            self.settings = reserve_health_port(self.settings, self._ports, has_embedded_servers=bool(self._servers))
        if self._has_ui:
            self.settings, port = reserve_ui_port(self.settings, self._ports, self._ui_host, self._ui_port)
            self.ui_address = self._ui_host, port

    def _start_embedded_servers(self, on_progress: Callable[[str], None]) -> None:
        require_own_addresses(self.settings, self._ui_host)
        will_start_servers = self.settings.database_url is None or self.settings.redis_url is None
        if will_start_servers and not self._background:  # an error comes before their start
            require_free_chosen_ports(self.settings, self._ui_host, self._ui_port)
        updates: dict[str, str] = {}

        def start(setting: str, service: Service, server: PostgresServer | RedisServer) -> None:
            on_progress(f"starting {service.name}")
            self._servers.append(server)
            wanted = server.port
            server.start()
            updates[setting] = server.url
            if not self._background:
                self._ports.keep(service, wanted, server.port)

        if self.settings.database_url is None:
            postgres = PostgresServer(self._home, port=self._find_wanted_port(POSTGRES), throw_away=self._throw_away)
            start("database_url", POSTGRES, postgres)
        if self.settings.redis_url is None:
            start("redis_url", REDIS, RedisServer(self._home, port=self._find_wanted_port(REDIS)))
        self.settings = self.settings.copy_unvalidated(**updates)

    def _write_servers_file(self, dagster: DagsterProcesses, *, is_starting: bool) -> None:
        """Write the settings, those that differ from the given ones, and addresses of processes, for other commands."""
        given, settings = self._given_settings, self.settings
        chosen = {name: value for name, value in settings if value != getattr(given, name)}
        addresses = {"worker": (settings.health_check_host, settings.health_check_port), **dagster.addresses}
        state = {ADDRESSES: addresses, STARTING: is_starting, STARTED_AT: self._started_at}
        content = {**chosen, **state, SETTINGS: settings_for_servers_file(given)}
        write_private(self._home / SERVERS_FILE, json.dumps(content))

    def _find_wanted_port(self, service: Service) -> int:
        return find_free_port() if self._background else self._ports.find_wanted(service)

    def _start_dagster_and_worker(self, dagster: DagsterProcesses, on_progress: Callable[[str], None]) -> None:
        if self.celery is not None:
            on_progress("starting Celery workers")
            self.celery.start_workers(self.settings)
        on_progress("starting the worker")
        self._worker = RestartedProcess(self._build_worker())
        self._worker.process.start()
        on_progress("starting Dagster's code server")
        dagster.start(CODE_SERVER)
        on_progress("starting Dagster's daemon")
        dagster.start(DAEMON)
        if self.ui_address is not None:
            on_progress(f"starting Dagster's webserver on port {self.ui_address[1]}")
            dagster.start(WEBSERVER)
        if self.celery is not None:
            self.celery.wait_until_ready()

    def _build_worker(self) -> ManagedProcess:
        stop_ms = self.settings.shutdown_timeout_ms
        worker_ms = max(stop_ms - AFTER_WORKER_MS, stop_ms // 2)  # the servers that it needs are stopped after it
        last_flush = "--no-last-flush" if self._background else "--last-flush"
        return ManagedProcess(
            "worker",
            [sys.executable, "-m", "viewer_pipeline.cli", "worker", last_flush],
            environment=self.settings.copy_unvalidated(shutdown_timeout_ms=worker_ms).child_process_environment(),
            log=self._home / "worker.log" if self._background else None,
            grace_seconds=worker_ms / 1000 + 1,
        )
