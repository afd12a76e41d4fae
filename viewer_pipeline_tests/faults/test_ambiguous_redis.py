"""Answers of Redis that are lost, late or never come: every wait ends, every retry is harmless."""

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
from viewer_pipeline.flush.aggregate import Aggregate, aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.counter_reader import CounterReader
from viewer_pipeline.flush.drain import Snapshot, drain
from viewer_pipeline.flush.incidents import open_incidents
from viewer_pipeline.flush.ledger_rows import Batch, LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import BEGIN, CONFIRM, DISCARD, SETTLE, SWEPT, RedisStore
from viewer_pipeline.flush.report import RunReport
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.ingest.fold_store import FoldStore
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.claims import SOME_LEDGER, claim
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

ANSWER_SECONDS = 0.4
RETRIES = 1
TRIES = RETRIES + 1
LONG = 20.0  # where a connection breaks, nobody waits for an answer
SECONDS = 20.0  # generous: what is awaited does come


class Call(NamedTuple):
    """What a call is recognised by on its way, and the name under which Redis counts it."""

    needle: bytes
    counted: str = "evalsha"

    @classmethod
    def of(cls, command: str, key: str = "") -> Call:
        """Return a command in the bytes of the protocol: its name alone is in many a script."""
        words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in (command, key) if word)
        return cls(words, command.lower())


# Over the one connection of a drain, which is never made again ...
SETTLED = Call(SETTLE.sha.encode())
ONCE = {
    "begin": Call(BEGIN.sha.encode()),
    "settle": SETTLED,
    "read": Call.of("MGET"),
    "confirm": Call(CONFIRM.sha.encode()),
}
# ... and those that redis-py sends again.
AGAIN = {
    "scan": Call.of("SCAN"),
    "settle": SETTLED,
    "publish": Call.of("PUBLISH"),
    "discard": Call(DISCARD.sha.encode()),
    "sweep done": Call(SWEPT.sha.encode()),
}
SILENT = ["settle", "publish", "discard", "sweep done"]

Fault = Literal["cut", "lost", "late", "unanswered"]


class Proxied(World):
    """The world of a run behind the proxy, which shares with another what was sent."""

    def __init__(self, world: World, proxy: Proxy, seconds: float) -> None:
        url = proxy.url(world.stores.redis.url)
        client = connect(url, seconds=seconds, retries=RETRIES)
        super().__init__(Stores(RedisStore(client, url, PREFIX), world.stores.ledger))
        self.sent = world.sent

    def drain(self) -> tuple[Snapshot, Aggregate]:
        """Take the first two steps of a run."""
        snapshot = drain(self.stores, self.request())
        return snapshot, aggregate(snapshot.readings)


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """Stand between a run and Redis."""
    with Proxy.of(redis_url, 6379) as proxy:
        yield proxy


@pytest.fixture
def patient(world: World, proxy: Proxy) -> Iterator[Proxied]:
    """Wait for answers as long as it takes: connections break."""
    made = Proxied(world, proxy, LONG)
    yield made
    made.client.close()


@pytest.fixture
def hasty(world: World, proxy: Proxy) -> Iterator[Proxied]:
    """Give up soon: connections fall silent."""
    made = Proxied(world, proxy, ANSWER_SECONDS)
    yield made
    made.client.close()


def scene(world: World) -> None:
    """Let a run make every call, also one that settles what was left, and let Redis know all scripts."""
    world.send("a", 1)
    world.client.zadd("viewer:changed", {"idle": 1})
    world.client.set(PREFIX + "idle", 0)
    world.stores.redis.request_sweep("before")
    world.flush()
    left_unsettled(world)
    world.send_many(5)
    world.client.set(PREFIX + "bad", "x")
    world.client.set(PREFIX + "idle", 0)
    world.client.zadd("viewer:changed", {"idle": 1, "bad": 1})
    world.stores.redis.request_sweep("test")


def left_unsettled(world: World) -> None:
    """Leave a flush of two batches in the ledger that Redis knows nothing of."""
    world.send_many(3, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settler, "add", lambda *_: None)
        world.flush()


def strike(proxy: Proxy, fault: Fault, call: Call, times: int) -> None:
    """Let it happen to the next such calls."""
    needle = call.needle
    match fault:
        case "cut":
            proxy.cut_at(needle, times)
        case "lost":
            proxy.lose_reply_to(needle, times)
        case "late":
            proxy.fall_silent_at(needle, deliver=False, times=times)
        case "unanswered":
            proxy.fall_silent_at(needle, deliver=True, times=times)


def happened(proxy: Proxy) -> int:
    """Return how often something did."""
    return proxy.cut_requests + proxy.lost_replies + proxy.silenced


def outcome(do: Callable[[], RunReport]) -> RunReport | RedisUnavailable:
    """Return what came of a run."""
    try:
        return do()
    except RedisUnavailable as error:
        return error


def assert_whole(world: World) -> None:
    """After one more run every view is persisted once, and nothing waits to be done again."""
    world.send("late", 1)
    done = world.flush()
    assert done.notes.drift == 0
    counters = world.counters()
    counters.pop("idle", None)
    assert counters == {}
    assert world.totals() == dict(world.sent)
    assert world.client.hget("viewer:subscriber", "sweep") is None
    assert world.client.zrange("viewer:changed", 0, -1) == []


# --- calls that break off ---


@pytest.mark.parametrize("fault", ["cut", "lost"])
@pytest.mark.parametrize("name", ONCE)
def test_a_drain_breaks_off(world: World, proxy: Proxy, patient: Proxied, name: str, fault: Fault) -> None:
    """Before or after Redis did it: the run commits nothing, because no connection to the same Redis is left."""
    scene(world)
    strike(proxy, fault, ONCE[name], 1)
    assert isinstance(outcome(patient.flush), RedisUnavailable)
    assert happened(proxy) == 1
    assert world.seqs() == [1, 2]
    settled = fault == "lost" if name == "settle" else name in ("read", "confirm")
    assert world.marker() == (Marker(2, 2, 2) if settled else Marker(1, 1, 1))
    assert_whole(world)


@pytest.mark.parametrize("fault", ["cut", "lost"])
@pytest.mark.parametrize("name", AGAIN)
def test_a_call_is_sent_again(world: World, proxy: Proxy, patient: Proxied, name: str, fault: Fault) -> None:
    """redis-py connects anew and repeats it, whether or not Redis did it: the run goes on, and counts once."""
    scene(world)
    planned = patient.drain() if name != "scan" else None
    strike(proxy, fault, AGAIN[name], 1)
    done = patient.flush() if planned is None else bulk_upsert(patient.stores, *planned)
    assert happened(proxy) == 1
    assert (done.views, done.notes.drift, done.notes.unpublished) == (15, 0, 0)
    assert done.notes.settled_already == (2 if (name, fault) == ("settle", "lost") else 0)
    assert world.totals() == dict(world.sent)
    assert all(check.passed for check in verify(patient.stores, done))
    assert_whole(world)


@pytest.mark.parametrize(("name", "fault"), [("settle", "cut"), *((name, "lost") for name in AGAIN)])
def test_all_tries_break_off(world: World, proxy: Proxy, patient: Proxied, name: str, fault: Fault) -> None:
    """The run fails where it was; tried again with the same snapshot, it finds what it had committed."""
    scene(world)
    planned = patient.drain() if name != "scan" else None
    strike(proxy, fault, AGAIN[name], TRIES)
    found = outcome(patient.flush if planned is None else lambda: bulk_upsert(patient.stores, *planned))
    assert happened(proxy) == TRIES
    if name == "publish":  # never fails a flush
        assert isinstance(found, RunReport)
        assert found.notes.unpublished == 2
    else:
        assert isinstance(found, RedisUnavailable)
    if planned is not None:
        done = bulk_upsert(patient.stores, *planned)
        assert (done.views, done.notes.drift) == (15, 0)
    assert_whole(world)


@pytest.mark.parametrize("fault", ["cut", "lost"])
def test_every_settling_script_breaks_off(
    world: World, proxy: Proxy, patient: Proxied, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent one by one, each is sent twice: ten batches are subtracted once each."""
    monkeypatch.setattr(redis_store, "PIPELINE_SCRIPTS", 1)
    world.send_many(20)
    planned = patient.drain()
    settle_some = RedisStore._send_settle_scripts

    def struck(*arguments: Any) -> Any:
        strike(proxy, fault, SETTLED, 1)
        return settle_some(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "_send_settle_scripts", struck)
        done = bulk_upsert(patient.stores, *planned)
    assert happened(proxy) == 10
    assert (done.notes.drift, done.notes.settled_already) == (0, 10 if fault == "lost" else 0)
    world.assert_all_persisted()


@pytest.mark.parametrize("times", [1, TRIES])
def test_a_pipeline_breaks_off_half_way(world: World, proxy: Proxy, patient: Proxied, times: int) -> None:
    """Redis has the first scripts and not the rest: the pipeline that is sent again, or the next run, does the rest."""
    half, size = 400, 20
    for letter in "ab":  # so many bytes that each half is sent in several pieces
        for number in range(half):
            world.send(f"{letter}{'-' * 200}{number:03d}")
    snapshot = drain(patient.stores, world.request(batch_size=size, flush_max_counters=2 * half))
    strike(proxy, "cut", Call(b"vod:views:b"), times)
    found = outcome(lambda: bulk_upsert(patient.stores, snapshot, aggregate(snapshot.readings)))
    assert proxy.cut_requests == times
    if times == TRIES:
        assert isinstance(found, RedisUnavailable)
        marker = world.marker()
        assert marker is not None
        assert 0 < marker.batch <= half // size
        assert world.flush().notes.settled_before == 2 * half // size - marker.batch
    else:
        assert isinstance(found, RunReport)
        assert 0 < found.notes.settled_already <= half // size
    world.assert_all_persisted()


def test_a_new_marker_whose_answer_is_lost(world: World, proxy: Proxy, patient: Proxied) -> None:
    """Redis was emptied, and the run that made the marker could not tell: the next one does, once."""
    scene(world)
    world.client.flushall()
    world.sent = Counter({"a": 1} | {f"vod{n:04d}": 7 for n in range(3)})
    world.send_many(5)
    strike(proxy, "lost", ONCE["begin"], 1)
    assert isinstance(outcome(patient.flush), RedisUnavailable)
    assert world.marker() == Marker(2, 2, 2)
    assert world.flush().notes.redis_emptied
    assert not world.flush().notes.redis_emptied
    with world.stores.ledger.connect() as connection:
        assert [(found.kind, found.occasions) for found in open_incidents(connection)] == [("redis_emptied", 1)]
    world.assert_all_persisted()


# --- calls that nobody answers ---


def begin_on_one_server(store: RedisStore) -> None:
    """Make a call over a connection of its own."""
    with store.one_server() as redis:
        redis.begin("run", LastFlush(0, 0), SOME_LEDGER)


CALLS: dict[str, Callable[[RedisStore], object]] = {
    "begin": lambda store: store.begin("run", LastFlush(0, 0), SOME_LEDGER),
    "confirm": lambda store: store.confirm("run", Marker(0, 0, 0)),
    "marker": lambda store: store.marker(),
    "lease_ledger": lambda store: store.lease_ledger(),
    "changed": lambda store: list(store.changed()),
    "swept": lambda store: list(store.swept()),
    "read": lambda store: store.read([[b"a"], [b"b"]]),
    "now": lambda store: store.now(),
    "pending": lambda store: store.pending(),
    "request_sweep": lambda store: store.request_sweep("test"),
    "require_writes": lambda store: store.require_writes(),
    "sweep_request": lambda store: store.sweep_request(),
    "complete_sweep": lambda store: store.complete_sweep(b"asked", "ledger"),
    "settle": lambda store: store.settle(Marker(0, 0, 0), [Batch(1, 1, 1, datetime.now(UTC), ["a"], [1])]),
    "publish_totals": lambda store: store.publish_totals([b"one", b"two"]),
    "discard_changed": lambda store: store.discard_changed("ledger", [b"a"], [b"b"]),
    "values": lambda store: store.values([b"a"]),
    "seconds_to_live": lambda store: store.seconds_to_live([b"a"]),
    "count_keys": lambda store: store.count_keys(),
    "subscriber_counts": lambda store: store.subscriber_counts("channel"),
    "hash_fields": lambda store: store.hash_fields("key", ["field"]),
    "read_hashes": lambda store: store.read_hashes(("key", ["field"])),
    "subscriber_fields": lambda store: store.subscriber_fields(["holder"]),
    "known_pipelines": lambda store: store.known_pipelines(),
    "register": lambda store: store.register(SOME_LEDGER),
    "run_script": lambda store: store.run_script(SWEPT, ["a", "b"], ["request", "ledger"]),
    "one_server": begin_on_one_server,
}


FOLDS: dict[str, Callable[[FoldStore], object]] = {
    "key_space": lambda folds: folds.key_space(),
    "subscriber_count": lambda folds: folds.subscriber_count("test"),
    "numsub": lambda folds: folds.numsub("channel"),
    "other_pipelines": lambda folds: folds.other_pipelines("test", "channel"),
    "acquire_or_renew": lambda folds: folds.acquire_or_renew(claim(SOME_LEDGER, "test", "mine"), 1000, 0),
    "release": lambda folds: folds.release("mine", "test"),
    "cut": lambda folds: folds.cut("test", "mine", 0),
    "fold": lambda folds: folds.fold("mine", 1, Counter(a=1), 1),
}


def calls_of(made: type) -> set[str]:
    """Return what can be asked of a store."""
    return {name for name, member in vars(made).items() if callable(member) and name[0] != "_"} - {"of_prefix"}


@pytest.mark.parametrize("new", [False, True], ids=["a connection that stands", "a new connection"])
def test_all_fall_silent(redis_url: str, proxy: Proxy, *, new: bool) -> None:
    """Whatever is asked of Redis, the wait for it ends, also where it cannot even be greeted."""
    assert (set(CALLS), set(FOLDS)) == (calls_of(CounterReader) | calls_of(RedisStore), calls_of(FoldStore))
    url = proxy.url(redis_url)
    asked = dict[str, Callable[[], object]]()
    with ExitStack() as stack:

        def client() -> redis.Redis:
            made = connect(url, seconds=ANSWER_SECONDS, retries=RETRIES)
            stack.callback(made.close)
            if not new:
                made.ping()
            return made

        for name, call in CALLS.items():
            asked[name] = partial(call, RedisStore(client(), url, PREFIX))
        for name, fold in FOLDS.items():
            asked[name] = partial(fold, FoldStore(client(), url, PREFIX, increment=True))
        proxy.blackhole()
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = {name: threads.submit(ask) for name, ask in asked.items()}
        for name, answer in answers.items():
            assert isinstance(answer.exception(), RedisUnavailable), name
        proxy.heal()


def test_a_slow_answer_is_awaited(world: World, proxy: Proxy, patient: Proxied) -> None:
    """What takes long, but not too long, is no fault: nothing is sent twice."""
    scene(world)
    planned = patient.drain()
    strike(proxy, "unanswered", SETTLED, 1)
    done = list[RunReport]()
    thread = threading.Thread(target=lambda: done.append(bulk_upsert(patient.stores, *planned)))
    thread.start()
    wait_until(lambda: proxy.silenced, SECONDS, "an answer held back")
    proxy.heal()
    thread.join(SECONDS)
    assert done[0].notes.settled_already == 0
    assert done[0].views == 15
    assert_whole(world)


@pytest.mark.parametrize("fault", ["late", "unanswered"])
@pytest.mark.parametrize("name", ONCE)
def test_a_drain_is_not_answered(world: World, proxy: Proxy, hasty: Proxied, name: str, fault: Fault) -> None:
    """The run gives up; what Redis hears of it when other runs have gone on changes no count."""
    scene(world)
    strike(proxy, fault, ONCE[name], 1)
    assert isinstance(outcome(hasty.flush), RedisUnavailable)
    assert happened(proxy) == 1
    assert world.seqs() == [1, 2]
    world.flush()
    world.send_many(5)
    hear_late(world, proxy, hasty, fault, ONCE[name])
    world.assert_conserved()
    assert_whole(world)


@pytest.mark.parametrize(("name", "fault"), [("settle", "unanswered"), *((name, "late") for name in SILENT)])
def test_a_call_is_not_answered_once(world: World, proxy: Proxy, hasty: Proxied, name: str, fault: Fault) -> None:
    """It is sent again over another connection; the first one arrives when the run has ended, amid new views."""
    scene(world)
    planned = hasty.drain()
    strike(proxy, fault, AGAIN[name], 1)
    done = bulk_upsert(hasty.stores, *planned)
    assert happened(proxy) == 1
    assert (done.views, done.notes.drift, done.notes.unpublished) == (15, 0, 0)
    assert world.totals() == dict(world.sent)
    world.send_many(5)
    hear_late(world, proxy, hasty, fault, AGAIN[name])
    world.assert_conserved()
    assert_whole(world)


@pytest.mark.parametrize("first", ["the scripts", "the next run"])
@pytest.mark.parametrize("fault", ["late", "unanswered"])
def test_settling_is_never_answered(world: World, proxy: Proxy, hasty: Proxied, fault: Fault, first: str) -> None:
    """The run fails with one or two flushes committed; who comes first subtracts them, and nobody a second time."""
    scene(world)
    planned = hasty.drain()
    strike(proxy, fault, SETTLED, TRIES)
    assert isinstance(outcome(lambda: bulk_upsert(hasty.stores, *planned)), RedisUnavailable)
    assert happened(proxy) == TRIES
    assert world.seqs() in ([1, 2, 3], [1, 2, 3, 4])
    if first == "the next run":
        world.flush()
    world.send_many(5)
    hear_late(world, proxy, hasty, fault, SETTLED)
    if first == "the next run":
        world.assert_conserved()
    assert world.marker() > Marker(2, 2, 2)  # type: ignore[operator]
    assert_whole(world)


@pytest.mark.parametrize("name", ["discard", "sweep done"])
def test_the_end_of_a_run_is_never_answered(world: World, proxy: Proxy, hasty: Proxied, name: str) -> None:
    """The run fails although all is counted; heard late, it takes back nothing that was announced or asked since."""
    scene(world)
    planned = hasty.drain()
    strike(proxy, "late", AGAIN[name], TRIES)
    assert isinstance(outcome(lambda: bulk_upsert(hasty.stores, *planned)), RedisUnavailable)
    assert world.totals() == dict(world.sent)
    world.send("idle", 4, announce=True)
    world.stores.redis.request_sweep("newer")
    hear_late(world, proxy, hasty, "late", AGAIN[name])
    assert b"newer" in (world.stores.redis.sweep_request() or b"")
    assert world.client.zscore("viewer:changed", "idle") is not None
    assert world.flush("changed").views == 4
    assert_whole(world)


def test_totals_are_heard_late(world: World, proxy: Proxy, hasty: Proxied) -> None:
    """Published twice, and once more after newer ones: the greatest of each VOD is its total (docs/totals.md)."""
    heard: Counter[str] = Counter()
    messages = 0
    with (
        connect(world.stores.redis.url) as client,
        client.pubsub(ignore_subscribe_messages=True) as pubsub,
    ):
        pubsub.subscribe(world.stores.redis.totals_channel)
        pubsub.get_message(timeout=SECONDS)
        world.send_many(3)
        planned = hasty.drain()
        strike(proxy, "late", AGAIN["publish"], 1)
        bulk_upsert(hasty.stores, *planned)
        world.send_many(3)
        world.flush()
        hear_late(world, proxy, hasty, "late", AGAIN["publish"])
        while message := pubsub.get_message(timeout=ANSWER_SECONDS):
            messages += 1
            heard |= Counter(orjson.loads(message["data"])["counts"])
    assert messages == 3 * 2
    assert heard == Counter(world.totals())
    world.assert_all_persisted()


def hear_late(world: World, proxy: Proxy, run: Proxied, fault: Fault, call: Call) -> None:
    """Let Redis hear what was held back, although who said it has gone, and wait until it has done all of it."""
    run.client.close()
    world.client.connection_pool.disconnect()  # of its connections one is made again, and no other
    before = done_by_redis(world, call)
    proxy.heal()
    wait_until(lambda: len(world.client.client_list(_type="normal")) == 1, SECONDS, "the late connections to end")
    assert (done_by_redis(world, call) > before) == (fault == "late")


def done_by_redis(world: World, call: Call) -> int:
    """Return how often Redis has done such a call."""
    statistics: Any = world.client.info("commandstats")
    return int(statistics.get(f"cmdstat_{call.counted}", {}).get("calls", 0))
