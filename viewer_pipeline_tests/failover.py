"""Two Redis servers behind one address, and a failover that closes no connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from viewer_pipeline.local.redis_server import RedisServer
from viewer_pipeline_tests.proxy import LOOPBACK, Proxy
from viewer_pipeline_tests.waiting import wait_until

FAILOVER_SECONDS = 30


class RedisPair:
    """A primary and its replica, behind a proxy as behind a load balancer. `stop` ends all of them."""

    def __init__(self, directory: Path) -> None:
        self.servers = [RedisServer(directory / name, append_only=False) for name in ("one", "two")]
        self.clients: list[redis.Redis] = []
        self._proxy = Proxy(LOOPBACK, 1)

    @property
    def url(self) -> str:
        """The one address."""
        return self._proxy.url(self.servers[0].url)

    @property
    def primary(self) -> redis.Redis:
        """A client of the first server, which is the primary until it is demoted."""
        return self.clients[0]

    @property
    def promoted(self) -> redis.Redis:
        """A client of the second one."""
        return self.clients[1]

    def start(self) -> None:
        """Start all, and wait until the replica has everything."""
        self._proxy.__enter__()
        for server in self.servers:
            server.start()
            client = redis.Redis(LOOPBACK, server.port, protocol=2)
            client.config_set("repl-diskless-sync-delay", 0)
            client.config_set("repl-ping-replica-period", 1)
            self.clients.append(client)
        self._proxy.retarget(self.servers[0].url)
        self.promoted.replicaof(LOOPBACK, str(self.servers[0].port))
        wait_until(lambda: replication(self.promoted).get("master_link_status") == "up", FAILOVER_SECONDS, "a replica")

    def demote(self) -> None:
        """Let both change their roles, in order: the old primary goes on as a replica, with all its clients."""
        command: Any = self.primary.execute_command
        command("FAILOVER", "TO", LOOPBACK, self.servers[1].port)
        roles: Callable[[], list[str]] = lambda: [replication(client)["role"] for client in self.clients]  # noqa: E731
        wait_until(lambda: roles() == ["slave", "master"], FAILOVER_SECONDS, "the failover")
        wait_until(lambda: replication(self.primary)["master_link_status"] == "up", FAILOVER_SECONDS, "a replica again")

    def separate(self) -> None:
        """Promote the second one, while the first becomes a replica of nobody, which hears nothing of the other."""
        self.promoted.replicaof("NO", "ONE")
        self.primary.replicaof(LOOPBACK, "1")

    def lead_to_the_new(self) -> None:
        """Let new connections to the address reach the second server; existing ones stay where they are."""
        self._proxy.retarget(self.servers[1].url)

    def stop(self) -> None:
        """Stop all."""
        self._proxy.__exit__(None, None, None)
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.child.stop()


def replication(client: redis.Redis) -> dict[str, Any]:
    """Return what a server says about its replication."""
    return dict(client.info("replication"))
