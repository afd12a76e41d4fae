"""Replies of Redis that are lost or late: every wait ends, every retry is harmless."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple

import orjson
import pytest
import redis

from viewer_pipeline.errors import RedisUnavailable
from viewer_pipeline.flush import redis_store
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.counter_reader import CounterReader
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.ledger_row_types import Batch, FlushRow, LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import ADVANCE_SWEEP, BEGIN, CONFIRM, DISCARD, SETTLE, RedisStore
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.sweep_position import SweepPart, SweepPosition
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.claims import SOME_LEDGER, claim
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

TIMEOUT_SECONDS = 1.0
RETRIES = 1
ATTEMPTS = RETRIES + 1
LONG = 20.0  # for connections that break
SECONDS = 20.0  # generous, for conditions
PROXIED_NAME = "behind-the-proxy"  # of connections, in Redis's list of clients


class Call(NamedTuple):
    """The bytes that identify a call, and the name under which Redis counts it."""

    needle: bytes
    counted: str = "evalsha"

    @classmethod
    def of(cls, command: str, key: str = "") -> Call:
        """Return a command in the bytes of the protocol: its name alone is part of many scripts."""
        words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in (command, key) if word)
        return cls(words, command.lower())


# On the connections of a drain, which are never replaced ...
SETTLED = Call(SETTLE.sha.encode())
ONCE = {
    "begin": Call(BEGIN.sha.encode()),
    "settle": SETTLED,
    "scan": Call.of("SCAN"),
    "read": Call.of("MGET"),
    "confirm": Call(CONFIRM.sha.encode()),
}
# ... and calls that redis-py repeats.
AGAIN = {
    "settle": SETTLED,
    "publish": Call.of("PUBLISH"),
    "discard": Call(DISCARD.sha.encode()),
    "sweep done": Call(ADVANCE_SWEEP.sha.encode()),
}
SILENT = ["settle", "publish", "discard", "sweep done"]

Fault = Literal["cut", "lost", "late", "no reply"]


class Proxied(World):
    """A world whose run is behind the proxy; it shares the views sent with another world."""

    def __init__(self, world: World, proxy: Proxy, seconds: float) -> None:
        url = proxy.url(world.stores.redis.url)
        client = connect(url, seconds=seconds, retries=RETRIES)
        client.connection_pool.connection_kwargs["client_name"] = PROXIED_NAME
        super().__init__(Stores(RedisStore(client, url, PREFIX), world.stores.ledger))
        self.sent = world.sent


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """Put a proxy between a run and Redis."""
    with Proxy.of(redis_url, 6379) as proxy:
        yield proxy


@pytest.fixture
def long_timeout(world: World, proxy: Proxy) -> Iterator[Proxied]:
    """A run with a long timeout, for connections that break."""
    made = Proxied(world, proxy, LONG)
    yield made
    made.client.close()


@pytest.fixture
def short_timeout(world: World, proxy: Proxy) -> Iterator[Proxied]:
    """A run with a short timeout, for connections that fall silent."""
    made = Proxied(world, proxy, TIMEOUT_SECONDS)
    yield made
    made.client.close()


def scene(world: World) -> None:
    """Prepare a state in which a run makes every call, also for an unsettled flush, and load all scripts."""
    world.send("a", 1)
    world.client.zadd("viewer:changed", {"idle": 1})
    world.client.set(PREFIX + "idle", 0)
    world.stores.redis.request_sweep("before")
    world.flush()
    world.send_many(3, 7)
    world.flush_unsettled()  # two batches
    world.send_many(5)
    world.client.set(PREFIX + "bad", "x")
    world.client.set(PREFIX + "idle", 0)
    world.client.zadd("viewer:changed", {"idle": 1, "bad": 1})
    world.stores.redis.request_sweep("test")


def inject(proxy: Proxy, fault: Fault, call: Call, times: int) -> None:
    """Inject a fault into the next of these calls."""
    needle = call.needle
    match fault:
        case "cut":
            proxy.cut_at(needle, times)
        case "lost":
            proxy.lose_reply_to(needle, times)
        case "late":
            proxy.fall_silent_at(needle, deliver=False, times=times)
        case "no reply":
            proxy.fall_silent_at(needle, deliver=True, times=times)


def faults(proxy: Proxy) -> int:
    """Return the number of faults so far."""
    return proxy.cut_requests + proxy.lost_replies + proxy.silenced


def outcome(do: Callable[[], RunReport]) -> RunReport | RedisUnavailable:
    """Return the result or error of a run."""
    try:
        return do()
    except RedisUnavailable as error:
        return error


def assert_whole(world: World) -> None:
    """Assert that after one more run every view is persisted once, and no work is left."""
    world.send("late", 1)
    done = world.flush()
    assert done.notes.drift == 0
    counters = world.counters()
    counters.pop("idle", None)
    assert counters == {}
    assert world.totals() == dict(world.sent)
    assert world.client.hget("viewer:subscriber", "sweep") is None
    assert world.client.zrange("viewer:changed", 0, -1) == []


# --- calls whose connection breaks ---


@pytest.mark.parametrize("fault", ["cut", "lost"])
@pytest.mark.parametrize("name", ONCE)
def test_the_connection_breaks_during_a_drain(
    world: World, proxy: Proxy, long_timeout: Proxied, name: str, fault: Fault
) -> None:
    """Before or after Redis executed it: the run commits nothing, because its connection to Redis is lost."""
    scene(world)
    inject(proxy, fault, ONCE[name], 1)
    assert isinstance(outcome(long_timeout.flush), RedisUnavailable)
    assert faults(proxy) == 1
    assert world.seqs() == [1, 2]
    settled = fault == "lost" if name == "settle" else name in ("scan", "read", "confirm")
    assert world.marker() == (Marker(2, 2, 2) if settled else Marker(1, 1, 1))
    assert_whole(world)


@pytest.mark.parametrize("fault", ["cut", "lost"])
@pytest.mark.parametrize("name", AGAIN)
def test_a_call_is_repeated(world: World, proxy: Proxy, long_timeout: Proxied, name: str, fault: Fault) -> None:
    """redis-py reconnects and repeats it, whether or not Redis executed it: the run continues, and counts once."""
    scene(world)
    planned = long_timeout.drain()
    inject(proxy, fault, AGAIN[name], 1)
    done = bulk_upsert(long_timeout.stores, *planned)
    assert faults(proxy) == 1
    assert (done.views, done.notes.drift, done.notes.unpublished) == (15, 0, 0)
    assert done.notes.settled_already == (2 if (name, fault) == ("settle", "lost") else 0)
    assert world.totals() == dict(world.sent)
    assert all(check.passed for check in verify(long_timeout.stores, done))
    assert_whole(world)


@pytest.mark.parametrize(("name", "fault"), [("settle", "cut"), *((name, "lost") for name in AGAIN)])
def test_all_attempts_of_a_call_fail(
    world: World, proxy: Proxy, long_timeout: Proxied, name: str, fault: Fault
) -> None:
    """The run fails; retried with the same snapshot, it finds its commit."""
    scene(world)
    planned = long_timeout.drain() if name != "scan" else None
    inject(proxy, fault, AGAIN[name], ATTEMPTS)
    result = outcome(long_timeout.flush if planned is None else lambda: bulk_upsert(long_timeout.stores, *planned))
    assert faults(proxy) == ATTEMPTS
    if name == "publish":  # never fails a flush
        assert isinstance(result, RunReport)
        assert result.notes.unpublished == 2
    else:
        assert isinstance(result, RedisUnavailable)
    if planned is not None:
        done = bulk_upsert(long_timeout.stores, *planned)
        assert (done.views, done.notes.drift) == (15, 0)
    assert_whole(world)


@pytest.mark.parametrize("fault", ["cut", "lost"])
def test_every_settling_script_is_repeated(
    world: World, proxy: Proxy, long_timeout: Proxied, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent one by one, each is sent twice: ten batches are subtracted once each."""
    monkeypatch.setattr(redis_store, "PIPELINE_SCRIPTS", 1)
    world.send_many(20)
    planned = long_timeout.drain()
    settle_some = RedisStore._send_settle_scripts

    def inject_and_settle(*arguments: Any) -> Any:
        inject(proxy, fault, SETTLED, 1)
        return settle_some(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "_send_settle_scripts", inject_and_settle)
        done = bulk_upsert(long_timeout.stores, *planned)
    assert faults(proxy) == 10
    assert (done.notes.drift, done.notes.settled_already) == (0, 10 if fault == "lost" else 0)
    world.assert_all_persisted()


@pytest.mark.parametrize("times", [1, ATTEMPTS])
def test_the_connection_breaks_within_a_pipeline(world: World, proxy: Proxy, long_timeout: Proxied, times: int) -> None:
    """Redis received only the first scripts: the repeated pipeline, or the next run, settles the rest."""
    half, size = 400, 20
    for letter in "ab":  # enough bytes that each half is sent in several pieces
        for number in range(half):
            world.send(f"{letter}{'-' * 200}{number:03d}")
    snapshot = drain(long_timeout.stores, world.request(batch_size=size, flush_max_counters=2 * half))
    inject(proxy, "cut", Call(b"vod:views:b"), times)
    result = outcome(lambda: bulk_upsert(long_timeout.stores, snapshot, aggregate(snapshot.readings)))
    assert proxy.cut_requests == times
    if times == ATTEMPTS:
        assert isinstance(result, RedisUnavailable)
        marker = world.marker()
        assert marker is not None
        assert 0 < marker.batch <= half // size
        assert world.flush().notes.settled_before == 2 * half // size - marker.batch
    else:
        assert isinstance(result, RunReport)
        assert 0 < result.notes.settled_already <= half // size
    world.assert_all_persisted()


def test_a_new_marker_whose_reply_is_lost(world: World, proxy: Proxy, long_timeout: Proxied) -> None:
    """Redis was emptied, and the run that created the marker got no reply: the next run reports it, once."""
    scene(world)
    world.client.flushall()
    world.sent = Counter({"a": 1} | {f"vod{n:04d}": 7 for n in range(3)})
    world.send_many(5)
    inject(proxy, "lost", ONCE["begin"], 1)
    assert isinstance(outcome(long_timeout.flush), RedisUnavailable)
    assert world.marker() == Marker(2, 2, 2)
    assert world.flush().notes.redis_emptied
    assert not world.flush().notes.redis_emptied
    with world.stores.ledger.connect() as connection:
        assert [(incident.kind, incident.occasions) for incident in open_incidents(connection)] == [
            ("redis_emptied", 1)
        ]
    world.assert_all_persisted()


# --- calls without a reply ---


def begin_on_one_server(store: RedisStore) -> None:
    """Make a call on a connection of its own."""
    with store.on_one_connection() as redis:
        redis.begin("run", LastFlush(0, 0), SOME_LEDGER)


SOME_POSITION = SweepPosition(0, 1, "server", "epoch", "ledger", b"1 request")

CALLS: dict[str, Callable[[RedisStore], object]] = {
    "begin": lambda store: store.begin("run", LastFlush(0, 0), SOME_LEDGER),
    "wait_until_reads_durable": lambda store: store.wait_until_reads_durable("run", Marker(0, 0, 0)),
    "marker": lambda store: store.marker(),
    "lease_ledger": lambda store: store.lease_ledger(),
    "changed_ids_oldest_first": lambda store: list(store.changed_ids_oldest_first()),
    "scan_counters": lambda store: list(store.scan_counters()),
    "scan_page": lambda store: store.scan_page(0, 10),
    "read": lambda store: store.read([[b"a"], [b"b"]]),
    "now": lambda store: store.now(),
    "changed_set_size_and_oldest": lambda store: store.changed_set_size_and_oldest(),
    "announce": lambda store: store.announce(["a"]),
    "delete_changed_set": lambda store: store.delete_changed_set(),
    "delete_marker": lambda store: store.delete_marker(),
    "delete_stream_keys": lambda store: store.delete_stream_keys(),
    "request_sweep": lambda store: store.request_sweep("test"),
    "request_sweeps": lambda store: store.request_sweeps("test"),
    "request_sweep_unless_requested": lambda store: store.request_sweep_unless_requested("test"),
    "write_subscriber_field": lambda store: store.write_subscriber_field("settings", b"{}"),
    "require_writes": lambda store: store.require_writes(),
    "sweep_request": lambda store: store.sweep_request(),
    "advance_sweep": lambda store: store.advance_sweep(SweepPart(b"", SOME_POSITION, SOME_POSITION)),
    "sweep_position": lambda store: store.sweep_position(),
    "server_run_id": lambda store: store.server_run_id(),
    "count_announced": lambda store: store.count_announced(None),
    "scan_ahead": lambda store: list(store.scan_ahead(0, 1000)),
    "read_page": lambda store: store.read_page([b"a"]),
    "validated": lambda store: store.validated([([b"a"], [None])]),
    "settle": lambda store: store.settle(Marker(0, 0, 0), [Batch(1, 1, 1, datetime.now(UTC), ["a"], [1])]),
    "publish_totals": lambda store: store.publish_totals([b"one", b"two"]),
    "add_to_changed_set": lambda store: store.add_to_changed_set(["a", "b"]),
    "remove_from_changed_set": lambda store: store.remove_from_changed_set("ledger", [b"a"], [b"b"]),
    "values": lambda store: store.values([b"a"]),
    "types": lambda store: store.types([b"a"]),
    "seconds_to_live": lambda store: store.seconds_to_live([b"a"]),
    "count_keys": lambda store: store.count_keys(),
    "subscriber_counts": lambda store: store.subscriber_counts("channel"),
    "hash_fields": lambda store: store.hash_fields("key", ["field"]),
    "read_hashes": lambda store: store.read_hashes(("key", ["field"])),
    "subscriber_fields": lambda store: store.subscriber_fields(["holder"]),
    "known_pipelines": lambda store: store.known_pipelines(),
    "register_pipeline": lambda store: store.register_pipeline(SOME_LEDGER),
    "run_script": lambda store: store.run_script(DISCARD, ["a", "b"], ["ledger", 1, 1]),
    "require_all_nodes": lambda store: store.require_all_nodes(),
    "find_unsettled": lambda store: store.find_unsettled(FlushRow(1, 1, 1, 1, "sweep"), []),
    "add_views": lambda store: store.add_views("a", 1),
    "on_one_connection": begin_on_one_server,
}
# They send nothing to a single Redis.
OFFLINE = {
    "of_prefix",
    "of_stream",
    "of_each_part",
    "leave_server",
    "node_clients",
    "unserved_slots",
    "has_hold",
    "delete_shard_markers",
}


FOLDS: dict[str, Callable[[SubscriberScripts], object]] = {
    "read_or_create_key_space_id": lambda folds: folds.read_or_create_key_space_id(),
    "count_subscribed_workers": lambda folds: folds.count_subscribed_workers("test"),
    "count_workers_of_other_pipelines": lambda folds: folds.count_workers_of_other_pipelines("test", "channel"),
    "acquire_or_renew_lease": lambda folds: folds.acquire_or_renew_lease(claim(SOME_LEDGER, "test", "mine"), 1000, 0),
    "release_lease": lambda folds: folds.release_lease("mine", "test"),
    "publish_cut": lambda folds: folds.publish_cut("test", "mine", 0),
    "fold_segment": lambda folds: folds.fold_segment("mine", 1, Counter(a=1), 1),
}


def calls_of(made: type) -> set[str]:
    """Return the public methods of a store."""
    return {name for name, member in vars(made).items() if callable(member) and name[0] != "_"} - OFFLINE


@pytest.mark.parametrize("new", [False, True], ids=["a connection that stands", "a new connection"])
def test_every_call_times_out(redis_url: str, proxy: Proxy, *, new: bool) -> None:
    """The wait for every call to Redis ends, also while connecting."""
    assert (set(CALLS), set(FOLDS)) == (calls_of(CounterReader) | calls_of(RedisStore), calls_of(SubscriberScripts))
    url = proxy.url(redis_url)
    calls = dict[str, Callable[[], object]]()
    with ExitStack() as stack:

        def client() -> redis.Redis:
            made = connect(url, seconds=TIMEOUT_SECONDS, retries=RETRIES)
            stack.callback(made.close)
            if not new:
                made.ping()
            return made

        for name, call in CALLS.items():
            calls[name] = partial(call, RedisStore(client(), url, PREFIX))
        for name, fold in FOLDS.items():
            calls[name] = partial(fold, SubscriberScripts(RedisStore(client(), url, PREFIX), increment=True))
        proxy.blackhole()
        with ThreadPoolExecutor(len(calls)) as threads:
            replies = {name: threads.submit(call) for name, call in calls.items()}
        for name, reply in replies.items():
            assert isinstance(reply.exception(), RedisUnavailable), name
        proxy.heal()


def test_a_slow_reply_is_awaited(world: World, proxy: Proxy, long_timeout: Proxied) -> None:
    """A reply within the timeout is no fault: nothing is sent twice."""
    scene(world)
    planned = long_timeout.drain()
    inject(proxy, "no reply", SETTLED, 1)
    done = list[RunReport]()
    thread = threading.Thread(target=lambda: done.append(bulk_upsert(long_timeout.stores, *planned)))
    thread.start()
    wait_until(lambda: proxy.silenced, SECONDS, "a delayed reply")
    proxy.heal()
    thread.join(SECONDS)
    assert done[0].notes.settled_already == 0
    assert done[0].views == 15
    assert_whole(world)


@pytest.mark.parametrize("fault", ["late", "no reply"])
@pytest.mark.parametrize("name", ONCE)
def test_a_drain_times_out(world: World, proxy: Proxy, short_timeout: Proxied, name: str, fault: Fault) -> None:
    """The run fails; its call, which Redis executes after later runs, changes no count."""
    scene(world)
    inject(proxy, fault, ONCE[name], 1)
    assert isinstance(outcome(short_timeout.flush), RedisUnavailable)
    assert faults(proxy) == 1
    assert world.seqs() == [1, 2]
    world.flush()
    world.send_many(5)
    deliver_late(world, proxy, short_timeout, fault, ONCE[name])
    world.assert_conserved()
    assert_whole(world)


@pytest.mark.parametrize(("name", "fault"), [("settle", "no reply"), *((name, "late") for name in SILENT)])
def test_a_call_times_out_once(world: World, proxy: Proxy, short_timeout: Proxied, name: str, fault: Fault) -> None:
    """It is repeated on another connection; the first one arrives after the run, amid new views."""
    scene(world)
    planned = short_timeout.drain()
    inject(proxy, fault, AGAIN[name], 1)
    done = bulk_upsert(short_timeout.stores, *planned)
    assert faults(proxy) == 1
    assert (done.views, done.notes.drift, done.notes.unpublished) == (15, 0, 0)
    assert world.totals() == dict(world.sent)
    world.send_many(5)
    deliver_late(world, proxy, short_timeout, fault, AGAIN[name])
    world.assert_conserved()
    assert_whole(world)


@pytest.mark.parametrize("first", ["the scripts", "the next run"])
@pytest.mark.parametrize("fault", ["late", "no reply"])
def test_all_settling_scripts_time_out(
    world: World, proxy: Proxy, short_timeout: Proxied, fault: Fault, first: str
) -> None:
    """The run fails with one or two flushes committed; they are subtracted once, whichever call arrives first."""
    scene(world)
    planned = short_timeout.drain()
    inject(proxy, fault, SETTLED, ATTEMPTS)
    assert isinstance(outcome(lambda: bulk_upsert(short_timeout.stores, *planned)), RedisUnavailable)
    assert faults(proxy) == ATTEMPTS
    assert world.seqs() in ([1, 2, 3], [1, 2, 3, 4])
    if first == "the next run":
        world.flush()
    world.send_many(5)
    deliver_late(world, proxy, short_timeout, fault, SETTLED)
    if first == "the next run":
        world.assert_conserved()
    assert world.marker() > Marker(2, 2, 2)  # type: ignore[operator]
    assert_whole(world)


@pytest.mark.parametrize("name", ["discard", "sweep done"])
def test_the_last_calls_of_a_run_time_out(world: World, proxy: Proxy, short_timeout: Proxied, name: str) -> None:
    """The run fails although all is counted; executed late, the call removes no newer announcement or request."""
    scene(world)
    planned = short_timeout.drain()
    inject(proxy, "late", AGAIN[name], ATTEMPTS)
    assert isinstance(outcome(lambda: bulk_upsert(short_timeout.stores, *planned)), RedisUnavailable)
    assert world.totals() == dict(world.sent)
    world.send("idle", 4, announce=True)
    world.stores.redis.request_sweep("newer")
    deliver_late(world, proxy, short_timeout, "late", AGAIN[name])
    assert b"newer" in (world.stores.redis.sweep_request() or b"")
    assert world.client.zscore("viewer:changed", "idle") is not None
    assert world.flush("changed").views == 4
    assert_whole(world)


def test_totals_are_received_late(world: World, proxy: Proxy, short_timeout: Proxied) -> None:
    """Published twice, and again after newer ones: the greatest of each VOD is its total (docs/totals.md)."""
    received: Counter[str] = Counter()
    messages = 0
    with (
        connect(world.stores.redis.url) as client,
        client.pubsub(ignore_subscribe_messages=True) as pubsub,
    ):
        pubsub.subscribe(world.stores.redis.totals_channel)
        pubsub.get_message(timeout=SECONDS)
        world.send_many(3)
        planned = short_timeout.drain()
        inject(proxy, "late", AGAIN["publish"], 1)
        bulk_upsert(short_timeout.stores, *planned)
        world.send_many(3)
        world.flush()
        deliver_late(world, proxy, short_timeout, "late", AGAIN["publish"])
        while message := pubsub.get_message(timeout=TIMEOUT_SECONDS):
            messages += 1
            received |= Counter(orjson.loads(message["data"])["counts"])
    assert messages == 3 * 2
    assert received == Counter(world.totals())
    world.assert_all_persisted()


def deliver_late(world: World, proxy: Proxy, run: Proxied, fault: Fault, call: Call) -> None:
    """Deliver the delayed call after its sender has closed, and wait until Redis has executed it."""
    run.client.close()
    before = executed_calls(world, call)
    proxy.heal()
    wait_until(lambda: not proxied_clients(world), SECONDS, "the late connections to end")
    assert (executed_calls(world, call) > before) == (fault == "late")


def proxied_clients(world: World) -> list[dict[str, str]]:
    """Return the connections of the run behind the proxy; a server of the session may have others, of anybody."""
    clients: list[dict[str, str]] = world.client.client_list(_type="normal")
    return [client for client in clients if client["name"] == PROXIED_NAME]


def executed_calls(world: World, call: Call) -> int:
    """Return the number of such calls that Redis has executed."""
    statistics: Any = world.client.info("commandstats")
    return int(statistics.get(f"cmdstat_{call.counted}", {}).get("calls", 0))
