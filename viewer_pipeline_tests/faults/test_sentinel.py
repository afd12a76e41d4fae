"""Redis behind a real Sentinel: every part of the pipeline finds the primary, and follows a failover."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from viewer_pipeline.errors import RedisFailed, RedisUnavailable, TransientError
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stack.redis_server import RedisServer, find_redis_executable
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.stores.redis_durability_wait import Durability
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.claims import identity_of
from viewer_pipeline_tests.support.failover import started
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

SERVICE = "views"
FAILOVER_SECONDS = 30
PASSWORD = "p@ss/w:rd"
QUOTED = "p%40ss%2Fw%3Ard"


class Watched:
    """A primary, a replica and the Sentinel that monitors them."""

    def __init__(self, directory: Path) -> None:
        self.servers = [RedisServer(directory / name, append_only=False) for name in ("first", "second")]
        self.port = find_free_port()
        configuration = directory / "sentinel.conf"
        self._configuration = configuration
        command: list[str | Path] = [find_redis_executable(), configuration, "--sentinel"]
        self._frozen = list[int]()
        self._sentinel = ManagedProcess("sentinel", command, log=directory / "sentinel.log")

    @property
    def url(self) -> str:
        """URL of the service, with an unreachable Sentinel in front."""
        return f"redis+sentinel://:{QUOTED}@{LOOPBACK}:1,{LOOPBACK}:{self.port}/{SERVICE}/0"

    def start(self) -> None:
        """Start all, and wait until the Sentinel knows the replica."""
        first, second = self.servers
        for server in self.servers:
            server.start()
            with connect(server.url) as client:
                client.config_set("masterauth", PASSWORD)
                client.config_set("repl-diskless-sync-delay", 0)
                client.config_set("repl-ping-replica-period", 1)
                if server is second:
                    client.replicaof(LOOPBACK, str(first.port))
                client.config_set("requirepass", PASSWORD)
        self._configuration.write_text(
            f"port {self.port}\nbind {LOOPBACK}\ndir {self._configuration.parent}\n"
            f"sentinel monitor {SERVICE} {LOOPBACK} {first.port} 1\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 2000\n"
        )
        self._sentinel.start()
        wait_until(lambda: self.state().get("num-slaves") == 1, FAILOVER_SECONDS, "the Sentinel to know both")

    def state(self) -> dict[str, Any]:
        """Return the Sentinel's state of the service."""
        try:
            with redis.Redis(LOOPBACK, self.port, protocol=2) as client:
                return dict(client.sentinel_master(SERVICE))
        except redis.RedisError:
            return {}

    def fail_over(self) -> None:
        """Freeze the primary, and wait until the other is promoted."""
        process = self.servers[0].process._process
        assert process is not None
        self._frozen = [
            int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
        for pid in self._frozen:
            os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: self.state().get("port") == self.servers[1].port, FAILOVER_SECONDS, "the failover")

    def demote(self) -> None:
        """Swap the roles by hand, and let the Sentinel monitor the new primary: no client connection is closed."""
        first, second = self.servers
        with connect(second.url.replace("://", f"://:{QUOTED}@")) as client:
            client.replicaof("NO", "ONE")
        with redis.Redis(LOOPBACK, self.port, protocol=2) as client:
            client.sentinel_remove(SERVICE)
            client.sentinel_monitor(SERVICE, LOOPBACK, second.port, 1)
            client.sentinel_set(SERVICE, "auth-pass", PASSWORD)
        with redis.Redis(LOOPBACK, first.port, password=PASSWORD) as client:
            client.replicaof(LOOPBACK, str(second.port))

    def thaw(self) -> None:
        """Continue the old primary, and wait until it is a replica."""
        for pid in self._frozen:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop all."""
        self.thaw()
        self._sentinel.stop()
        for server in self.servers:
            server.process.stop()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Return a monitored pair."""
    with started(Watched(tmp_path)) as made:
        yield made


def test_a_flush_follows_a_failover(watched: Watched, world: World) -> None:
    """Committed with one primary, settled on the next: exact with the wait; health follows, too."""
    durability = Durability(replicas=1)
    settings = Settings(redis_url=watched.url, database_url=world.stores.ledger.url, redis_wait_replicas=1)
    probes = HealthProbes(settings)
    with connect(watched.url, seconds=1) as client:
        here = World(Stores(RedisStore(client, watched.url, PREFIX, durability=durability), world.stores.ledger))
        here.send_many(7)
        snapshot = drain(here.stores, here.request())
        assert "accepts writes" in by_name(probes.check_redis())["redis"].message
        watched.fail_over()
        for last in (False, False, True):  # as Dagster tries the step again
            try:
                bulk_upsert(here.stores, snapshot, aggregate(snapshot.readings))
                break
            except TransientError:
                if last:
                    raise
                here.stores.redis.durability = Durability()  # no replica is left that could acknowledge
        assert here.seqs() == [1, 2]
        watched.thaw()
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, FAILOVER_SECONDS, "the old primary")
        assert client.info("server")["tcp_port"] == watched.servers[1].port
        here.send("late")
        here.flush()
        assert "accepts writes" in by_name(probes.check_redis())["redis"].message
        here.assert_all_persisted()


def test_a_subscriber_follows_a_failover(watched: Watched, database_url: str) -> None:
    """It receives from the new primary within seconds, and folds into it."""
    settings = Settings(redis_url=watched.url, database_url=database_url)
    running = SubscriberThread(settings)
    try:
        running.start()
        watched.fail_over()
        with connect(watched.url, seconds=1) as client:

            def is_received() -> bool:
                client.publish(CHANNEL, message("published", 4))
                return bool(client.exists(PREFIX + "published"))

            wait_until(is_received, FAILOVER_SECONDS, "a message to be folded")
            assert client.info("server")["tcp_port"] == watched.servers[1].port
    finally:
        running.stop()


def test_errors_name_the_cause(watched: Watched) -> None:
    """A service that the Sentinel does not know, a wrong password: clear errors, without the password."""
    for url, error, text in (
        (watched.url.replace("/views/", "/other/"), RedisUnavailable, "No master found for 'other'"),
        (watched.url.replace(QUOTED, "wrong"), RedisFailed, "invalid username-password pair"),
    ):
        with connect(url, retries=0) as client, pytest.raises(error, match=text) as raised:
            RedisStore(client, url, PREFIX).marker()
        assert PASSWORD not in str(raised.value)
        assert QUOTED not in str(raised.value)
        assert "wrong" not in str(raised.value)
        assert "***@127.0.0.1:1,127.0.0.1:" in str(raised.value)


def test_a_demotion_that_closes_no_connection(watched: Watched, database_url: str) -> None:
    """The old primary keeps its clients: a script that it refuses, with any of its errors, goes to the new one."""
    settings = Settings(redis_url=watched.url, database_url=database_url)
    with connect(watched.url, seconds=1, retries=2) as client, SubscriberThread(settings) as running:
        store, probes = RedisStore(client, watched.url, PREFIX), HealthProbes(settings)
        assert "accepts writes" in by_name(probes.check_redis())["redis"].message
        store.begin("before", LastFlush(0, 0), identity_of(database_url))
        wait_until(lambda: running.state == "listening", FAILOVER_SECONDS, "it folds")
        watched.demote()
        store.begin("after", LastFlush(0, 0), identity_of(database_url))
        assert client.info("server")["tcp_port"] == watched.servers[1].port
        assert "refuses writes" in by_name(probes.check_redis())["redis"].message  # over the open connection
        assert "accepts writes" in by_name(probes.check_redis())["redis"].message
        wait_until(lambda: running.stats.losses["moved"] == 1, FAILOVER_SECONDS, "the subscriber follows")

        def is_folded() -> bool:
            client.publish(CHANNEL, message("published"))
            return bool(client.exists(PREFIX + "published"))

        wait_until(is_folded, FAILOVER_SECONDS, "a message to be folded")
        probes.close()
