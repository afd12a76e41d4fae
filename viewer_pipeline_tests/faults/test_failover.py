"""A failover behind one address that closes no connection: the demoted primary keeps its clients and refuses writes."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from viewer_pipeline.errors import RedisFailed, RedisRefusesWrites
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.ingest import subscription
from viewer_pipeline.ingest.lease import GRACE_MS
from viewer_pipeline.ingest.subscription import Subscription
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect, redis_errors
from viewer_pipeline.stores.redis_reconnect_on_refusal import demotion_counter_of
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.failover import RedisPair, replication, started
from viewer_pipeline_tests.support.subscribers import CHANNEL, PIPELINE_MESSAGES, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until
from viewer_pipeline_tests.support.worker_process import WorkerProcess, publish
from viewer_pipeline_tests.support.world import PREFIX, World

HEALED_SECONDS = 30
VIEWS = 60


@pytest.fixture
def pair(servers_home: Path) -> Iterator[RedisPair]:
    """Return a pair behind one address."""
    with started(RedisPair(servers_home)) as made:
        yield made


@pytest.fixture
def behind(pair: RedisPair, database_url: str) -> Iterator[World]:
    """Return a world on the one address, of a client that lives as long as the test."""
    with world_at(pair.url, database_url) as world:
        yield world


@contextmanager
def world_at(url: str, database_url: str) -> Iterator[World]:
    """Return a world on an address."""
    with connect(url, seconds=2, retries=2) as client:
        yield World(Stores(RedisStore(client, url, PREFIX), Ledger(database_url)))


@pytest.fixture
def running(pair: RedisPair, database_url: str) -> Iterator[SubscriberThread]:
    """Return a subscriber on the one address, on a thread."""
    made = SubscriberThread(Settings(redis_url=pair.url, database_url=database_url))
    try:
        yield made.start()
    finally:
        made.stop()


def views_of(client: redis.Redis, vod_id: str) -> int:
    """Return what a counter of a server holds."""
    value: Any = client.get(PREFIX + vod_id)
    return int(value or 0)


def lease_over_ms(client: redis.Redis) -> float:
    """Return for how long the lease has been over, by the clock of a server; less than nothing while it is not."""
    expires: Any = client.hget("viewer:subscriber", "expires")
    seconds, microseconds = client.time()
    return float(seconds * 1000 + microseconds / 1000 - float(expires))


def publish_and_receive(pair: RedisPair, running: SubscriberThread, views: int = VIEWS) -> None:
    """Let the demoted server publish, and wait until the subscriber has received all of it."""
    before = running.stats.received
    for _ in range(views):
        assert pair.primary.publish(CHANNEL, message("a"))
    wait_until(lambda: running.stats.received == before + views, HEALED_SECONDS, "all received")


@contextmanager
def publishing(client: redis.Redis, *, busy: bool) -> Iterator[Callable[[], int]]:
    """Publish without a pause, if `busy`; give what returns how many messages that were."""
    stop, sent = threading.Event(), [0]

    def publish_all() -> None:
        while busy and not stop.is_set():
            with client.pipeline(transaction=False) as pipe:
                for _ in range(PIPELINE_MESSAGES):
                    pipe.publish(CHANNEL, message("a"))
                sent[0] += sum(pipe.execute())

    thread = threading.Thread(target=publish_all)
    thread.start()
    try:
        yield lambda: sent[0]
    finally:
        stop.set()
        thread.join(HEALED_SECONDS)


# --- subscribers ----------------------------------------------------------------------------------------------------


def test_subscriber_moves_to_the_new_primary(pair: RedisPair, running: SubscriberThread) -> None:
    """It keeps what it receives, and moves once the address leads to a server that accepts writes."""
    publish_and_receive(pair, running, 1)
    wait_until(lambda: views_of(pair.primary, "a") == 1, HEALED_SECONDS, "the first view")
    pair.demote()
    publish_and_receive(pair, running)
    wait_until(lambda: "refuses writes" in running.stats.refusal_reason, HEALED_SECONDS, "a refusal")
    counter = demotion_counter_of(running.subscriber.writer.client)
    refused = counter.demotions
    wait_until(lambda: counter.demotions > refused + 2, HEALED_SECONDS, "more attempts")
    assert (running.state, running.stats.losses) == ("listening", {})
    publish_and_receive(pair, running)  # still there
    pair.lead_to_the_new()
    wait_until(lambda: views_of(pair.promoted, "a") == 2 * VIEWS + 1, HEALED_SECONDS, "all that was received")
    wait_until(lambda: running.stats.losses == {"moved": 1}, HEALED_SECONDS, "another subscription")
    wait_until(lambda: pair.promoted.publish(CHANNEL, message("b")), HEALED_SECONDS, "it receives the new one")
    wait_until(lambda: views_of(pair.promoted, "b"), HEALED_SECONDS, "what came after")
    assert not pair.primary.pubsub_numsub(CHANNEL)[0][1]
    assert not running.stats.refusal_reason
    running.stop()
    assert views_of(pair.promoted, "a") == 2 * VIEWS + 1
    assert running.remaining == 0


def test_standby_moves_to_the_new_primary(pair: RedisPair, running: SubscriberThread, database_url: str) -> None:
    """It folds nothing, and yet leaves a server that is a replica; neither worker folds twice."""
    with SubscriberThread(Settings(redis_url=pair.url, database_url=database_url)) as other:
        publish_and_receive(pair, running, 1)
        wait_until(lambda: views_of(pair.primary, "a") == 1, HEALED_SECONDS, "the first view")
        pair.demote()
        pair.lead_to_the_new()
        both = (running, other)
        wait_until(lambda: [made.stats.losses["moved"] for made in both] == [1, 1], HEALED_SECONDS, "both follow")
        wait_until(lambda: {made.state for made in both} == {"listening", "standby"}, HEALED_SECONDS, "both receive")
        for _ in range(VIEWS):
            pair.promoted.publish(CHANNEL, message("a"))
        wait_until(lambda: views_of(pair.promoted, "a") == VIEWS + 1, HEALED_SECONDS, "all of it")
        running.stop()
        pair.promoted.publish(CHANNEL, message("a"))
        wait_until(lambda: views_of(pair.promoted, "a") == VIEWS + 2, HEALED_SECONDS, "the other folds")


def test_worker_started_while_writes_are_refused(pair: RedisPair, running: SubscriberThread, database_url: str) -> None:
    """Messages received before it ever held the lease are folded on the new primary."""
    running.stop()
    pair.demote()
    with SubscriberThread(Settings(redis_url=pair.url, database_url=database_url)) as late:
        publish_and_receive(pair, late)
        wait_until(lambda: "refuses writes" in late.stats.refusal_reason, HEALED_SECONDS, "a refusal")
        pair.lead_to_the_new()
        wait_until(lambda: views_of(pair.promoted, "a") == VIEWS, HEALED_SECONDS, "all that was received")
        wait_until(lambda: late.stats.losses == {"moved": 1}, HEALED_SECONDS, "another subscription")


@pytest.mark.parametrize("failover", [False, True], ids=["out of memory", "failover"])
def test_late_worker_lets_the_holder_go_first(
    pair: RedisPair, running: SubscriberThread, database_url: str, *, failover: bool
) -> None:
    """The lease has been over for long when writes are accepted again, and the late worker has received less."""
    publish_and_receive(pair, running, 1)
    wait_until(lambda: views_of(pair.promoted, "a") == 1, HEALED_SECONDS, "the first view, replicated")
    if failover:
        pair.demote()
    else:
        pair.primary.config_set("maxmemory", 1)
    publish_and_receive(pair, running)
    wait_until(lambda: "refuses writes" in running.stats.refusal_reason, HEALED_SECONDS, "a refusal")
    server = pair.promoted if failover else pair.primary
    wait_until(lambda: lease_over_ms(server) > GRACE_MS, HEALED_SECONDS, "the end of the lease, and longer")
    with SubscriberThread(Settings(redis_url=pair.url, database_url=database_url)) as late:
        wait_until(lambda: late.stats.refusal_reason, HEALED_SECONDS, "a refusal")
        running.freeze()
        tried = late.subscriber.writer.lease._due
        if failover:
            pair.lead_to_the_new()
        else:
            pair.primary.config_set("maxmemory", 0)
        wait_until(lambda: late.subscriber.writer.lease._due != tried, HEALED_SECONDS, "an attempt of the other one")
        running.thaw()
        wait_until(lambda: views_of(server, "a") == VIEWS + 1, HEALED_SECONDS, "all that was received")
        server.publish(CHANNEL, message("b"))
        wait_until(lambda: views_of(server, "b") == 1, HEALED_SECONDS, "what came after")
    running.stop()
    assert views_of(server, "a") == VIEWS + 1


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
def test_subscription_on_another_server_is_noticed_by_the_holder(
    pair: RedisPair, running: SubscriberThread, *, busy: bool
) -> None:
    """No command is refused, because commands reach the new primary: missing cuts show it."""
    publish_and_receive(pair, running, 1)
    wait_until(lambda: views_of(pair.promoted, "a") == 1, HEALED_SECONDS, "the first view, replicated")
    pair.separate()
    pair.lead_to_the_new()
    running.subscriber.writer.client.connection_pool.disconnect()
    sent = 0
    with publishing(pair.primary, busy=busy) as publisher:
        wait_until(lambda: running.stats.losses == {"moved": 1}, HEALED_SECONDS, "the subscription is closed")
        sent = publisher()
    wait_until(lambda: pair.promoted.publish(CHANNEL, message("b")), HEALED_SECONDS, "it receives the new one")
    wait_until(lambda: views_of(pair.promoted, "b"), HEALED_SECONDS, "what came after")
    assert views_of(pair.promoted, "a") == running.stats.received - views_of(pair.promoted, "b")
    assert bool(sent) == busy


def test_subscription_on_another_server_is_noticed_by_a_standby(
    pair: RedisPair, running: SubscriberThread, database_url: str
) -> None:
    """It makes no cuts: it misses the cuts of segments that the holder folds."""
    with SubscriberThread(Settings(redis_url=pair.url, database_url=database_url)) as other:
        publish_and_receive(pair, running, 1)
        wait_until(lambda: views_of(pair.promoted, "a") == 1, HEALED_SECONDS, "the first view, replicated")
        wait_until(lambda: {running.state, other.state} == {"listening", "standby"}, HEALED_SECONDS, "one stands by")
        standby = running if running.state == "standby" else other
        wait_until(lambda: standby.subscriber.writer.buffer.numbered, HEALED_SECONDS, "a cut")
        pair.separate()
        pair.lead_to_the_new()
        for made in (running, other):
            made.subscriber.writer.client.connection_pool.disconnect()
        wait_until(lambda: standby.stats.losses["moved"] == 1, HEALED_SECONDS, "the subscription is closed")
        wait_until(lambda: standby.state == "standby", HEALED_SECONDS, "it stands by again")
        assert standby.stats.takeovers == 0
        assert demotion_counter_of(standby.subscriber.writer.client).demotions == 0


def test_backlog_is_not_taken_for_another_server(
    pair: RedisPair, running: SubscriberThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts that wait behind many messages arrive in the end: the subscription is kept, and all is folded."""
    monkeypatch.setattr(subscription, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr("viewer_pipeline.ingest.subscription.READ_BYTES", 1 << 10)  # so that it is always behind
    pings, ping = list[int](), Subscription.send_numbered_ping

    def counted_ping(subscription: Subscription) -> int:
        pings.append(ping(subscription))
        return pings[-1]

    monkeypatch.setattr(Subscription, "send_numbered_ping", counted_ping)
    for _ in range(50):
        with pair.primary.pipeline(transaction=False) as pipe:
            for _ in range(1000):
                pipe.publish(CHANNEL, message("a"))
            pipe.execute()
    wait_until(lambda: views_of(pair.primary, "a") == 50_000, 2 * HEALED_SECONDS, "all of it")
    assert pings
    assert running.stats.losses == {}


# --- a stop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True], ids=["replicated", "separate"])
def test_stop_while_writes_are_refused(pair: RedisPair, running: SubscriberThread, *, separate: bool) -> None:
    """The new primary answers before the deadline: no received view is lost."""
    publish_and_receive(pair, running, 1)
    wait_until(lambda: views_of(pair.primary, "a") == 1, HEALED_SECONDS, "the first view")
    if separate:
        wait_until(lambda: views_of(pair.promoted, "a") == 1, HEALED_SECONDS, "the replica has it")
        pair.separate()
    else:
        pair.demote()
    publish_and_receive(pair, running)
    wait_until(lambda: "refuses writes" in running.stats.refusal_reason, HEALED_SECONDS, "a refusal")
    running.subscriber.request_stop()
    wait_until(lambda: running.state == "stopping", HEALED_SECONDS, "the stop")
    refused = demotion_counter_of(running.subscriber.writer.client).demotions
    wait_until(
        lambda: demotion_counter_of(running.subscriber.writer.client).demotions > refused + 3,
        HEALED_SECONDS,
        "attempts",
    )
    pair.lead_to_the_new()
    running._thread.join(HEALED_SECONDS)
    assert running.remaining == 0
    assert running.stats.dropped_views == 0
    assert views_of(pair.promoted, "a") == VIEWS + 1


def test_stop_at_its_deadline_reports_lost_views(pair: RedisPair, running: SubscriberThread) -> None:
    """It ends in time and returns how many views are lost; no worker counts them."""
    publish_and_receive(pair, running, 1)
    wait_until(lambda: views_of(pair.primary, "a") == 1, HEALED_SECONDS, "the first view")
    pair.demote()
    publish_and_receive(pair, running)
    running.subscriber.request_stop(time.monotonic() + 1.5)
    running._thread.join(ENOUGH)
    assert running.remaining == VIEWS
    assert views_of(pair.promoted, "a") == 1


def test_stop_of_a_worker_process_during_a_failover(pair: RedisPair, tmp_path: Path, world: World) -> None:
    """The worker's last flush persists views received while the old primary refused them, within its time limit."""
    with WorkerProcess(tmp_path, world.stores.ledger.url, pair.url) as worker:
        worker.wait_until_ready()
        pair.demote()
        for _ in range(VIEWS):
            assert publish(pair.primary, "a")
        wait_until(lambda: worker.has_logged("folding_refused"), HEALED_SECONDS, "a refusal")
        assert refusing(worker) == {"redis", "subscriber"}
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: worker.has_logged("worker_stopping"), HEALED_SECONDS, "the stop")
        pair.lead_to_the_new()
        assert worker.process.wait(ENOUGH) == 0
        last = worker.last_event()
    assert (last["lost_views"], last["last_flush"].partition(",")[0]) == (0, f"flushed the remaining views: {VIEWS}")
    assert world.totals() == {"a": VIEWS}
    assert views_of(pair.promoted, "a") == 0


def refusing(worker: WorkerProcess) -> set[str]:
    """Return the checks of /health that report refused writes; wait until there are any."""
    names = set[str]()

    def failing_checks() -> set[str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/health", timeout=ENOUGH) as response:
                checks = json.load(response)["checks"]
        except urllib.error.HTTPError as error:
            checks = json.load(error)["checks"]
        assert "accepts writes" not in checks["redis"]["message"]
        names.update(name for name, check in checks.items() if "refuses writes" in check["message"])
        return names

    wait_until(lambda: {"redis", "subscriber"} <= failing_checks(), HEALED_SECONDS, "both checks say it")
    return names


# --- flushes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads", [False, True], ids=["refused for a while", "the new one at once"])
def test_failover_after_the_last_read(pair: RedisPair, behind: World, *, leads: bool) -> None:
    """What is committed is settled on the new primary: by the same step where it is there, else by the next attempt."""
    behind.send_many(20)
    snapshot = drain(behind.stores, behind.request())
    aggregated = aggregate(snapshot.readings)
    pair.demote()
    if leads:
        pair.lead_to_the_new()
    else:
        with pytest.raises(RedisRefusesWrites, match="it is a replica"):
            bulk_upsert(behind.stores, snapshot, aggregated)
        assert behind.seqs() in ([1], [1, 2])
        pair.lead_to_the_new()
    persisted = bulk_upsert(behind.stores, snapshot, aggregated)  # over the connections that there were
    assert persisted.notes.drift == 0
    assert all(check.passed for check in verify(behind.stores, persisted))
    behind.assert_all_persisted()
    assert tcp_port(behind.client) == pair.servers[1].port


def test_failover_during_settling(pair: RedisPair, behind: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused pipeline of scripts is sent again from its start, and subtracts each batch once."""
    behind.send_many(12)
    snapshot = drain(behind.stores, behind.request(flush_max_counters=12))
    settle = behind.stores.redis._send_settle_scripts
    groups = list[int]()

    def demote_between(marker: Any, batches: Any) -> Any:
        if len(groups) == 1:
            pair.demote()
            pair.lead_to_the_new()
        groups.append(len(batches))
        return settle(marker, batches)

    monkeypatch.setattr("viewer_pipeline.flush.redis_store.PIPELINE_SCRIPTS", 2)
    monkeypatch.setattr(behind.stores.redis, "_send_settle_scripts", demote_between)
    persisted = bulk_upsert(behind.stores, snapshot, aggregate(snapshot.readings))
    assert groups == [2, 2, 2]
    assert persisted.notes.drift == 0
    behind.assert_all_persisted()


def test_failover_during_a_drain(pair: RedisPair, behind: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settling and reading share one connection (R3, R7): it is not made again, the run fails and commits nothing."""
    behind.send_many(3)
    read = RedisStore.read

    def demote_after(store: RedisStore, candidates: Any) -> Any:
        readings = read(store, candidates)
        pair.demote()
        pair.lead_to_the_new()
        return readings

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "read", demote_after)
        with pytest.raises(RedisRefusesWrites, match="it is a replica"):
            behind.flush()
    assert behind.seqs() == []
    behind.flush()
    behind.assert_all_persisted()


def test_all_connections_leave_a_demoted_server(pair: RedisPair, behind: World) -> None:
    """A connection that has only read leaves with the one that was refused."""
    pool = behind.client.connection_pool
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(first)
    pool.release(second)
    pair.demote()
    pair.lead_to_the_new()
    behind.send("a")
    ports = set()
    held = [pool.get_connection() for _ in range(2)]
    for connection in held:
        connection.send_command("INFO", "server")  # type: ignore[no-untyped-call]  # so in redis-py
        ports.add(f"tcp_port:{pair.servers[1].port}" in str(connection.read_response()))
        pool.release(connection)
    assert ports == {True}


def test_out_of_memory_is_no_demotion(pair: RedisPair, behind: World) -> None:
    """The error is raised once, as it is; the next command goes where the address leads."""
    behind.send("before")
    pair.primary.config_set("maxmemory", 1)
    try:
        pair.lead_to_the_new()
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            behind.client.incr(PREFIX + "a")
        assert tcp_port(behind.client) == pair.servers[1].port
        assert demotion_counter_of(behind.client).demotions == 0
    finally:
        pair.primary.config_set("maxmemory", 0)


def test_value_that_reads_like_a_refusal(pair: RedisPair, behind: World) -> None:
    """Only error replies count, and of them only how they begin."""
    behind.client.set("READONLY", "READONLY You can't write against a read only replica.")
    assert behind.client.get("READONLY")
    with behind.client.pipeline(transaction=False) as pipe:
        pipe.incr("READONLY")
        with pytest.raises(RedisFailed, match="INCRBY READONLY"), redis_errors(pair.url):
            pipe.execute()
    assert demotion_counter_of(behind.client).demotions == 0


def tcp_port(client: redis.Redis) -> int:
    """Return the port of the server that a client reaches."""
    return int(client.info("server")["tcp_port"])


# --- health ---------------------------------------------------------------------------------------------------------


def test_health_moves_to_the_new_primary(pair: RedisPair, database_url: str) -> None:
    """It never reports "accepts writes" of a server that refuses them, and heals by itself."""
    probes = HealthProbes(Settings(redis_url=pair.url, database_url=database_url))
    assert "accepts writes" in by_name(probes.check_redis())["redis"].message
    pair.demote()
    for _ in range(2):
        result = by_name(probes.check_redis())["redis"]
        assert (result.status, "refuses writes" in result.message) == ("unhealthy", True)
        assert "accepts writes" not in result.message
    pair.lead_to_the_new()
    assert "accepts writes" in by_name(probes.check_redis())["redis"].message
    probes.close()


def test_demotion_that_no_command_meets(pair: RedisPair, running: SubscriberThread) -> None:
    """Commands reached the new primary already; the old one relays all messages, so none is missing here."""
    pair.primary.execute_command("CLIENT", "PAUSE", 4000, "WRITE")  # type: ignore[no-untyped-call]
    pair.promoted.replicaof("NO", "ONE")
    pair.lead_to_the_new()
    client, demoted = running.subscriber.writer.client, pair.servers[0].port
    wait_until(lambda: client.info("server")["tcp_port"] != demoted, HEALED_SECONDS, "the new one")
    pair.primary.replicaof("127.0.0.1", str(pair.servers[1].port))
    wait_until(lambda: replication(pair.primary).get("master_link_status") == "up", HEALED_SECONDS, "a replica")

    def subscribed() -> int:
        reply: Any = pair.promoted.pubsub_numsub(CHANNEL)
        return int(reply[0][1])

    wait_until(lambda: subscribed() == 1, HEALED_SECONDS, "a subscription at the new primary")
    wait_until(lambda: running.state == "listening", HEALED_SECONDS, "it folds")
    assert running.stats.losses["moved"] == 1
    before = running.stats.folded_views
    for _ in range(VIEWS):
        assert pair.promoted.publish(CHANNEL, message("a"))
    wait_until(lambda: running.stats.folded_views == before + VIEWS, HEALED_SECONDS, "folded")
    assert views_of(pair.promoted, "a") == VIEWS
