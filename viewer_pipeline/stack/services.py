"""Everything on one machine, in the foreground: embedded servers where no URL is set, Dagster, worker."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from viewer_pipeline.errors import EmbeddedServerError, SettingsError, ViewerPipelineError
from viewer_pipeline.flush.adoption import How
from viewer_pipeline.flush.ledger import require_target
from viewer_pipeline.flush.registry import require_pipeline
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack import dagster_processes
from viewer_pipeline.stack.adoption import run_adopt
from viewer_pipeline.stack.child import Child
from viewer_pipeline.stack.home import SERVERS_FILE, lock_home, write_private
from viewer_pipeline.stack.ports import LOOPBACK, PortClaims, free_port, reachable
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline.stack.redis_server import RedisServer
from viewer_pipeline.stack.upgrade import migrate_servers
from viewer_pipeline.stop_signals import StopRequest
from viewer_pipeline.stores.durability import require_durability

log = logging.getLogger("viewer_pipeline.stack")

CODE_SERVER_SECONDS = 120
LOOK_SECONDS = 0.5  # how often a child that ended is noticed
RESTART_SECONDS = (1.0, 30.0)  # first and longest pause before a child is started again
LOG_BYTES = 20_000_000  # of each log in VIEWER_HOME, and as much again for the one before
DAGSTER_GRACE_SECONDS = 3.0  # nothing of Dagster's is worth waiting for: what it did is in its database
AFTER_WORKER_MS = 5000  # of a stop, kept for the code server and the embedded servers


class Stack:
    """Starts all, starts again what ends, stops all in order."""

    def __init__(
        self,
        settings: Settings,
        *,
        throw_away: bool = False,
        background: bool = False,
        ui: bool = True,
        ui_host: str = LOOPBACK,
        adopt: How | None = None,
    ) -> None:
        """Make it; nothing is started yet.

        `throw_away`: data need not survive a crash. `background`: the worker logs to a file, its stop flushes nothing,
        and the usual ports are left to others. `ui_host`: the address that the UI is served on; it has no login.
        `adopt`: give the counters to this database first; Redis may know another one.
        """
        self._ports = PortClaims()
        self.settings = settings.changed(health_check_port=_health_port(settings, self._ports, usual=not background))
        self.ui_host, self.ui_port = ui_host, self._ports.port(dagster_processes.UI_PORT) if ui else None
        self._home = settings.viewer_home.absolute()
        self._home.mkdir(parents=True, exist_ok=True)
        self._throw_away, self._background = throw_away, background
        self._adopt = adopt
        self._lock: IO[str] | None = None
        self._owns_postgres = settings.database_url is None and settings.dagster_database_url is None
        self._servers: list[PostgresServer | RedisServer] = []
        self._children: list[_Kept] = []

    def _worker_ms(self) -> int:
        """Return how long the worker may take to stop: the servers that it needs are stopped after it."""
        total = self.settings.shutdown_timeout_ms
        return max(total - AFTER_WORKER_MS, total // 2)

    def start(self, said: Callable[[str], None]) -> None:
        """Start all; say each step. Raises ViewerPipelineError, after stopping what was started."""
        self._lock = lock_home(self._home)
        try:
            self._start_servers(said)
            require_durability(self.settings)
            said("migrating the schema `viewer`")
            migrate_servers(self.settings, said, alone=self._owns_postgres)
            if self._adopt is not None:
                done = run_adopt(self.settings, self._adopt)
                said(f"the counters {done.prefix}* belong to {done.place}")
            require_pipeline(self.settings)
            require_target(self.settings)
            self._start_processes(said)
        except BaseException:
            self.stop(said)
            raise

    def processes(self, name: str) -> list[int]:
        """Return the processes of one child, itself first; none while it is down. Only on Linux."""
        children = [kept.child for kept in self._children] + [server.child for server in self._servers]
        return [pid for child in children if child.name == name for pid in child.descendants()]

    def watch(self, stop: StopRequest) -> None:
        """Start again what ends, until `stop` is set."""
        while not stop.wait(LOOK_SECONDS):
            for server in self._servers:
                if (status := server.child.exit_status()) is not None:
                    log.error(event("server ended; starting it again", name=server.child.name, status=status))
                    try:
                        server.start()
                    except ViewerPipelineError:
                        log.exception(event("server does not start", name=server.child.name))
            for kept in self._children:
                kept.look()
            for child in [kept.child for kept in self._children] + [server.child for server in self._servers]:
                child.rotate(LOG_BYTES)

    def stop(self, said: Callable[[str], None]) -> int:
        """Stop all that runs, in order, within SHUTDOWN_TIMEOUT_MS. Return the worker's exit status. Idempotent.

        At once, nothing new is launched, and the worker hears no more, folds what it heard, lets a running flush end
        and flushes what remains. The code server, whose children the runs are, and the servers wait for that.
        """
        children = {kept.child.name: kept.child for kept in self._children}
        self._children.clear()
        for name in children.keys() - {"code server"}:
            children[name].request_stop()
        statuses = {}
        for name in ("worker", "daemon", "webserver", "code server"):
            if name in children:
                said(f"stopping the {name}")
                statuses[name] = children[name].stop()
        for server in reversed(self._servers):
            said(f"stopping {server.child.name}")
            server.stop()
        self._servers.clear()
        self._ports.release()
        if self._lock is not None:  # else the file is that of the stack which holds the lock
            (self._home / SERVERS_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None
        return statuses.get("worker", 0)

    def _start_servers(self, said: Callable[[str], None]) -> None:
        updates: dict[str, str] = {}
        if self.settings.database_url is None:
            postgres = PostgresServer(self._home, port=self._server_port(), throw_away=self._throw_away)
            said(f"starting PostgreSQL on port {postgres.port}")
            self._servers.append(postgres)
            postgres.start()
            updates["database_url"] = postgres.url
        if self.settings.redis_url is None:
            server = RedisServer(self._home, port=self._server_port())
            said(f"starting Redis on port {server.port}")
            self._servers.append(server)
            server.start()
            updates["redis_url"] = server.url
        self.settings = self.settings.changed(**updates)
        write_private(self._home / SERVERS_FILE, json.dumps(updates))

    def _server_port(self) -> int | None:
        return free_port() if self._background else None

    def _start_processes(self, said: Callable[[str], None]) -> None:
        from viewer_pipeline.orchestration.instance import (
            fail_orphans,
            open_instance,
            prepare_home,
        )  # imports Dagster: 2 s

        dagster_home = prepare_home(self.settings)
        port = free_port()
        workspace = dagster_processes.write_workspace(dagster_home, port=port)
        said("starting Dagster's code server")
        code_server = self._start("code server", *dagster_processes.code_server(self.settings, LOOPBACK, port))
        with open_instance(self.settings) as instance:  # makes Dagster's tables before several processes want to
            if self._owns_postgres:
                for run_id in fail_orphans(instance):
                    said(f"run {run_id} had not ended; marked as failed")
        said("starting the worker")
        flush_at_stop = "--no-last-flush" if self._background else "--last-flush"
        self._start("worker", "-m", "viewer_pipeline.cli", "worker", flush_at_stop, logged=self._background)
        if self._owns_postgres:
            next(kept for kept in self._children if kept.child is code_server).ended = self._fail_orphans
        _wait_for_port(code_server, port)
        said("starting Dagster's daemon")
        self._start("daemon", *dagster_processes.daemon(self.settings, workspace))
        if self.ui_port is not None:
            said(f"starting Dagster's webserver on port {self.ui_port}")
            ui = dagster_processes.webserver(self.settings, workspace, self.ui_host, self.ui_port)
            self._start("webserver", *ui)
            _wait_for_port(self._children[-1].child, self.ui_port, reachable(self.ui_host))

    def _fail_orphans(self) -> None:
        """Tell Dagster which runs ended with their code server, or none is launched until their time is over."""
        from viewer_pipeline.orchestration.instance import fail_orphans, open_instance

        with open_instance(self.settings) as instance:
            for run_id in fail_orphans(instance, launched_only=True):
                log.error(event("run ended with the code server", run=run_id))

    def _start(self, name: str, *arguments: str, logged: bool = True) -> Child:
        log_file = self._home / f"{name.replace(' ', '-')}.log" if logged else None
        worker_ms = self._worker_ms()
        child = Child(
            name,
            [sys.executable, *arguments],
            environment=self.settings.changed(shutdown_timeout_ms=worker_ms).environment(),
            log=log_file,
            grace=worker_ms / 1000 + 1 if name == "worker" else DAGSTER_GRACE_SECONDS,
        )
        child.start()
        self._children.append(_Kept(child))
        return child


@dataclass
class _Kept:
    """A child that is started again when it ends, after a pause that grows while it keeps ending."""

    child: Child
    pause: float = RESTART_SECONDS[0]
    due: float = 0.0
    started: float = 0.0
    ended: Callable[[], None] | None = None  # what is to be done before it is started again

    def look(self) -> None:
        now = time.monotonic()
        status = self.child.exit_status()
        if status is None:
            if now - self.started > RESTART_SECONDS[1]:
                self.pause = RESTART_SECONDS[0]
        elif not self.due:
            log.error(event("process ended", name=self.child.name, status=status, log=self.child.log))
            self.due = now + self.pause
            self.pause = min(self.pause * 2, RESTART_SECONDS[1])
        elif now >= self.due:
            self._tidy_up()
            self.child.start()
            self.started, self.due = now, 0.0

    def _tidy_up(self) -> None:
        if self.ended is not None:
            try:
                self.ended()
            except Exception:  # it is started all the same
                log.exception(event("cannot tidy up after a process", name=self.child.name))


def _health_port(settings: Settings, ports: PortClaims, *, usual: bool) -> int:
    """Return the port that is asked for; where none is, the usual one or another that is free."""
    wanted, asked = settings.health_check_port, "health_check_port" in settings.model_fields_set
    free = ports.port(wanted if asked or usual else None)
    if asked and free != wanted:
        ports.release()
        raise SettingsError(f"HEALTH_CHECK_PORT={wanted}: another process listens there")
    return free


def _wait_for_port(child: Child, port: int, host: str = LOOPBACK) -> None:
    deadline = time.monotonic() + CODE_SERVER_SECONDS
    while True:
        with suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        if child.exit_status() is not None or time.monotonic() > deadline:
            raise EmbeddedServerError(f"the {child.name} does not start; the end of its log:\n{child.last_words()}")
        time.sleep(0.05)
