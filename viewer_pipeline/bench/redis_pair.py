"""A primary and its replica behind one address; a failover swaps their roles without closing connections."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from viewer_pipeline.bench.failover_forwarder import FailoverForwarder
from viewer_pipeline.errors import EmbeddedServerError, ViewerPipelineError
from viewer_pipeline.logs import event
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.redis_server import RedisServer

log = logging.getLogger("viewer_pipeline.redis_pair")

START_SECONDS, FAILOVER_SECONDS = 30.0, 10.0
POLL_SECONDS = 0.05


class RedisPair:
    """Two embedded servers and a forwarder in front of the primary."""

    def __init__(self, home: Path) -> None:
        self.servers = [RedisServer(home / name) for name in ("first", "second")]
        self.primary, self.replica = self.servers
        self._forwarder = FailoverForwarder(self.primary.port)

    @property
    def url(self) -> str:
        """URL of database 0 of the server that is the primary at the time of the connection."""
        return f"redis://{LOOPBACK}:{self._forwarder.port}/0"

    def start(self) -> None:
        """Start both, and wait until the replica is in sync."""
        for server in self.servers:
            server.start()
        self._forwarder.target_port = self.primary.port
        self._forwarder.start()
        self._make_replica_follow()
        deadline = time.monotonic() + START_SECONDS
        while not self._is_replica_linked_and_aof_complete():
            if time.monotonic() > deadline:
                raise EmbeddedServerError("the replica does not follow the primary")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop all three."""
        self._forwarder.stop()
        for server in self.servers:
            server.stop()

    def restart_ended_servers(self) -> None:
        """Restart a server that has ended, in its previous role."""
        for server in self.servers:
            if server.process.exit_status() is None:
                continue
            try:
                server.start()
            except ViewerPipelineError:
                log.exception(event("server_start_failed", name="redis", port=server.port))
        with suppress(redis.RedisError):
            self._make_replica_follow()

    def try_to_fail_over(self) -> bool:
        """Swap the roles without closing connections. Return False, and do nothing, if the replica is not in sync."""
        with suppress(redis.RedisError):
            if not self._is_replica_linked_and_aof_complete():
                return False
            with _connect_to(self.primary.port) as client:
                timeout = int(FAILOVER_SECONDS * 1000)
                client.execute_command("FAILOVER", "TO", LOOPBACK, self.replica.port, "TIMEOUT", timeout)
            deadline = time.monotonic() + FAILOVER_SECONDS + 1
            while time.monotonic() < deadline:
                if _read_role(self.replica.port) == "master" and _read_role(self.primary.port) == "slave":
                    self.primary, self.replica = self.replica, self.primary
                    self._forwarder.target_port = self.primary.port
                    return True
                time.sleep(POLL_SECONDS)
        return False

    def _make_replica_follow(self) -> None:
        """Make the replica follow the primary, if it does not: a restarted server is a primary."""
        if _read_role(self.replica.port) == "master":
            with _connect_to(self.replica.port) as client:
                client.replicaof(LOOPBACK, str(self.primary.port))

    def _is_replica_linked_and_aof_complete(self) -> bool:
        """Whether the replica follows, and its append-only file contains the initial copy."""
        with _connect_to(self.replica.port) as client:
            replication: Any = client.info("replication")
            persistence: Any = client.info("persistence")
        rewriting = persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"]
        return replication.get("master_link_status") == "up" and not rewriting


def _read_role(port: int) -> str:
    with _connect_to(port) as client:
        replication: Any = client.info("replication")
    return str(replication["role"])


def _connect_to(port: int) -> redis.Redis:
    return redis.Redis(host=LOOPBACK, port=port, socket_timeout=2, retry=Retry(NoBackoff(), 0))
