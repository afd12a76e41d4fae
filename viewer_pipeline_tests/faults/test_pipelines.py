"""Several pipelines on one Redis, and several databases with the same counters: no view is lost or counted twice."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
import redis

from viewer_pipeline.errors import CannotAdopt, MarkerMoved, MarkerUnreadable, PipelineRefused
from viewer_pipeline.flush import adoption
from viewer_pipeline.flush.adoption import adopt_pipeline
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.marker_ownership import find_refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.retirement import retire_pipeline
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.conftest import TEMPLATE
from viewer_pipeline_tests.support.claims import claim
from viewer_pipeline_tests.support.servers import Postgres, copy_database
from viewer_pipeline_tests.support.waiting import ENOUGH
from viewer_pipeline_tests.support.world import PREFIX, World

SHOP = "shop:views:"
FLUSHES = 12

MakeWorld = Callable[..., World]


@pytest.fixture
def another(postgres_server: Postgres, redis_url: str) -> Iterator[MakeWorld]:
    """Create a world of another database on the same Redis: a fresh one, or a copy of an existing one."""
    names = list[str]()
    with (
        psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection,
        ExitStack() as stack,
    ):

        def make(prefix: str = SHOP, like: str = "") -> World:
            name = "other_" + os.urandom(6).hex()
            names.append(name)
            if like:
                _leave(connection, like.rpartition("/")[2].partition("?")[0])
            copy_database(connection, name, like.rpartition("/")[2].partition("?")[0] or TEMPLATE)
            client = redis.Redis.from_url(redis_url)
            stack.callback(client.close)
            ledger = Ledger(postgres_server.url_of_database(name))
            return World(Stores(RedisStore(client, redis_url, prefix), ledger), prefix)

        yield make
        for name in names:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _leave(connection: psycopg.Connection, name: str) -> None:
    """Close the connections: a database with connections cannot be copied."""
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def keys_of(world: World) -> dict[bytes, Any]:
    """Everything that Redis holds."""
    keys: Any = world.client.keys("*")
    return {key: world.client.dump(key) for key in keys}


def as_physical_copy(world: World, identity: LedgerIdentity) -> World:
    """Give a copy the identity of the original, as a base backup has it."""

    class Copied(Ledger):
        def identity(self, _connection: psycopg.Connection) -> LedgerIdentity:
            return identity

    world.stores = Stores(world.stores.redis, Copied(world.stores.ledger.url))
    return world


# --- two prefixes ---


def test_two_pipelines_flush_concurrently(world: World, another: MakeWorld) -> None:
    """Under traffic, each into its own database: both are exact, and neither opens an incident."""
    pipelines = [world, another(SHOP)]
    failed = list[BaseException]()

    def work(mine: World) -> None:
        try:
            for _ in range(FLUSHES):
                mine.send_many(30)
                mine.flush(batch_size=3, flush_max_counters=10)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work, args=[mine]) for mine in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENOUGH)
    assert failed == []
    for mine in pipelines:
        mine.flush()
        mine.assert_all_persisted()
        assert mine.incidents() == {}
    assert {pipeline.prefix for pipeline in world.stores.redis.known_pipelines()} == {PREFIX, SHOP}


def test_two_pipelines_fold_concurrently(world: World, another: MakeWorld) -> None:
    """Each has its own lease, segments and cuts."""
    worlds = [world, another(SHOP)]
    for number, mine in enumerate(worlds, 1):
        folds = SubscriberScripts(mine.stores.redis, increment=True)
        space = folds.read_or_create_key_space_id()
        assert folds.acquire_or_renew_lease(claim(mine.identity, space, "token"), 60_000, 0).outcome == "acquired"
        for _ in range(number):
            folds.fold_segment("token", folds.publish_cut(space, "token", 0), Counter(a=number), 1)
        mine.sent["a"] += number * number
    for mine in worlds:
        mine.flush(mode="changed")
        mine.assert_all_persisted()


@pytest.mark.parametrize(("first", "second"), [("v:", "v:eu:"), ("v:eu:", "v:"), ("v\n :", "v\n :eu:")])
def test_overlapping_prefixes(another: MakeWorld, first: str, second: str) -> None:
    """The second pipeline is refused while the first is registered, with both names; afterwards it counts."""
    owner, other = another(first), another(second)
    owner.send("a", 2)
    owner.flush()
    other.send("a", 3)
    before = keys_of(other)
    with pytest.raises(PipelineRefused, match=re.escape(f"={second!r} and the prefix {first!r} of the pipeline")):
        other.flush()
    folds = SubscriberScripts(other.stores.redis, increment=True)
    with pytest.raises(PipelineRefused, match="overlap"):
        folds.acquire_or_renew_lease(claim(other.identity, "space", "token"), 1000, 0)
    assert keys_of(other) == before
    if first == "v:eu:":  # the second one's counters do not begin with it
        assert retire_pipeline(owner.stores.redis, first)
    else:
        with pytest.raises(CannotAdopt, match=re.escape(f"counters of {first!r} are left")):
            retire_pipeline(owner.stores.redis, first)
        with pytest.raises(PipelineRefused):
            retire_pipeline(owner.stores.redis, first, settled_by=other.stores.ledger)
        assert retire_pipeline(owner.stores.redis, first, settled_by=owner.stores.ledger)
    other.flush()
    other.assert_all_persisted()
    with pytest.raises(PipelineRefused, match="overlap"):
        owner.flush()


def test_remaining_views_of_a_retired_pipeline(world: World) -> None:
    """Its committed views are subtracted first; the remaining ones are for the next pipeline."""
    world.send_many(4)
    world.flush()
    world.send_many(4)
    world.flush_unsettled()
    world.send_many(4, 1)
    assert retire_pipeline(world.stores.redis, PREFIX, settled_by=world.stores.ledger)
    assert world.counters() == {f"vod{n:04d}": 1 for n in range(4)}
    world.flush()
    world.assert_all_persisted()


def test_a_running_pipeline_is_not_retired(world: World) -> None:
    """Its worker would continue folding."""
    folds = SubscriberScripts(world.stores.redis, increment=True)
    folds.acquire_or_renew_lease(
        claim(world.identity, folds.read_or_create_key_space_id(), "token", "host:1"), 60_000, 0
    )
    with pytest.raises(CannotAdopt, match="worker host:1"):
        retire_pipeline(world.stores.redis, PREFIX)
    folds.release_lease("token", folds.read_or_create_key_space_id())
    assert retire_pipeline(world.stores.redis, PREFIX)
    assert not retire_pipeline(world.stores.redis, PREFIX)


def test_a_prefix_with_braces(another: MakeWorld) -> None:
    """A hash tag in the prefix is none in our key names."""
    braces = another("{t}%7Bv:")
    braces.send("a", 1)
    braces.flush()
    braces.assert_all_persisted()
    assert b"viewer:settled:%7Bt%7D%257Bv:" in keys_of(braces)


# --- one prefix, two databases ---


def test_another_ledger_is_refused_before_anything_is_read(world: World, another: MakeWorld) -> None:
    """The error names both databases and the remedy; nothing in Redis changes, nothing is counted."""
    world.send_many(3)
    world.flush()
    world.send_many(3)
    other = another(PREFIX)
    before = keys_of(world)
    with pytest.raises(PipelineRefused) as refused:
        other.flush()
    for part in (world.identity.place, other.identity.place, "viewer-pipeline adopt"):
        assert part in str(refused.value)
    with pytest.raises(PipelineRefused):
        other.stores.redis.register_pipeline(other.identity)
    with other.stores.ledger.connect() as connection:
        assert str(find_refusal(other.stores.redis, other.stores.ledger, connection)) == str(refused.value)
    assert (keys_of(world), other.totals(), other.seqs()) == (before, {}, [])
    world.flush()
    world.assert_all_persisted()


def test_another_ledger_gets_no_lease(world: World, another: MakeWorld) -> None:
    """Even if no worker holds it; commands with an old token are refused."""
    folds = SubscriberScripts(world.stores.redis, increment=True)
    space = folds.read_or_create_key_space_id()
    folds.acquire_or_renew_lease(claim(world.identity, space, "token"), 60_000, 0)
    folds.release_lease("token", space)
    other = another(PREFIX)
    others = SubscriberScripts(other.stores.redis, increment=True)
    with pytest.raises(PipelineRefused, match="are settled by the database"):
        others.acquire_or_renew_lease(claim(other.identity, space, "other"), 60_000, 0)
    assert world.client.hget("viewer:subscriber", "holder") is None


def test_a_lost_registry_does_not_change_the_owner(world: World, another: MakeWorld) -> None:
    """Marker and lease name the ledger, too."""
    world.send_many(3)
    world.flush()
    folds = SubscriberScripts(world.stores.redis, increment=True)
    folds.acquire_or_renew_lease(claim(world.identity, folds.read_or_create_key_space_id(), "token"), 1, 0)
    other = another(PREFIX)
    for call in (
        other.flush,
        lambda: folds.acquire_or_renew_lease(claim(other.identity, folds.read_or_create_key_space_id(), "other"), 1, 0),
        lambda: other.stores.redis.register_pipeline(other.identity),
    ):
        world.client.delete("viewer:pipelines")
        with pytest.raises(PipelineRefused, match="are settled by the database"):
            call()


@pytest.mark.parametrize("by", ["flush", "lease", "register"])
def test_a_refused_ledger_takes_no_lost_entry(world: World, another: MakeWorld, by: str) -> None:
    """The registry is lost, and another ledger starts first: the owner of the counters continues."""
    world.send_many(3)
    world.flush()
    other = another(PREFIX)
    folds = SubscriberScripts(world.stores.redis, increment=True)
    space = folds.read_or_create_key_space_id()
    calls: dict[str, Callable[[], object]] = {
        "flush": other.flush,
        "lease": lambda: folds.acquire_or_renew_lease(claim(other.identity, space, "other"), 1, 0),
        "register": lambda: other.stores.redis.register_pipeline(other.identity),
    }
    for _ in range(2):
        world.client.delete("viewer:pipelines")
        with pytest.raises(PipelineRefused, match="are settled by the database"):
            calls[by]()
        assert world.stores.redis.known_pipelines() == []
        world.send_many(3)
        world.flush()
        assert (
            folds.acquire_or_renew_lease(claim(world.identity, space, "token", term=0), 60_000, 0).ledger
            == world.identity.key
        )
    world.assert_all_persisted()


def test_a_lost_entry_is_recreated_unchanged(world: World) -> None:
    """Even by a role that may not read all of the identity: otherwise it would contradict the marker."""
    world.send_many(3)
    world.flush()
    world.client.delete("viewer:pipelines")
    narrow = World(world.stores)
    as_physical_copy(narrow, world.identity._replace(system="unknown")).flush()
    world.send_many(3)
    world.flush()
    world.assert_all_persisted()


@pytest.mark.parametrize("system", [None, "unknown"])
@pytest.mark.parametrize(("key", "field"), [("viewer:pipelines", PREFIX), ("viewer:subscriber", "ledger")])
def test_adopt_repairs_contradicting_owners(world: World, key: str, field: str, system: str | None) -> None:
    """Registry or lease names another ledger than the marker: the error suggests `adopt`, which must help."""
    folds = SubscriberScripts(world.stores.redis, increment=True)
    space = folds.read_or_create_key_space_id()
    folds.acquire_or_renew_lease(claim(world.identity, space, "token"), 1, 0)
    world.send_many(3)
    world.flush()
    world.client.hset(key, field, "other/1/2")
    mine = world if system is None else as_physical_copy(World(world.stores), world.identity._replace(system=system))
    with pytest.raises(PipelineRefused, match="viewer-pipeline adopt"):
        folds.acquire_or_renew_lease(claim(world.identity, space, "late"), 1, 0)
    assert adopt_pipeline(mine.stores).changed
    assert not adopt_pipeline(world.stores).changed
    world.send_many(3)
    world.flush()
    folds.acquire_or_renew_lease(claim(world.identity, space, "late"), 1, 0)
    world.assert_all_persisted()


def test_adopt_does_not_bypass_other_refusals(another: MakeWorld) -> None:
    """The entry was lost, and an overlapping prefix was registered; or this database settles another prefix."""
    owner = another("v:")
    owner.send("a", 1)
    owner.flush()
    copy = another("v:", like=owner.stores.ledger.url)
    owner.client.delete("viewer:pipelines")
    shorter = another("v:eu:")
    shorter.flush()
    before = keys_of(owner)
    with pytest.raises(PipelineRefused, match="overlap"):
        adopt_pipeline(copy.stores)
    owner.client.delete("viewer:pipelines")
    World(Stores(RedisStore(owner.client, owner.stores.redis.url, SHOP), copy.stores.ledger), SHOP).flush()
    with pytest.raises(PipelineRefused, match="a database has one prefix"):
        adopt_pipeline(copy.stores)
    assert {b"viewer:settled:v:": before[b"viewer:settled:v:"]}.items() <= keys_of(owner).items()


def test_two_copies_adopt_concurrently(world: World, another: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one of them succeeds, and it has the counters."""
    world.send_many(3)
    world.flush()
    copy, late = (another(PREFIX, like=world.stores.ledger.url) for _ in range(2))
    adopt_script = adoption._adopt

    def overtaken(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        adopt_pipeline(copy.stores)
        adopt_script(*arguments, **options)

    monkeypatch.setattr(adoption, "_adopt", overtaken)
    with pytest.raises(MarkerMoved):
        adopt_pipeline(late.stores)
    copy.sent = Counter(world.sent)
    copy.flush()
    copy.assert_all_persisted()


def test_a_copy_of_the_database_is_refused_until_it_is_adopted(world: World, another: MakeWorld) -> None:
    """A restored dump, or a database made from a template: afterwards the original is refused."""
    world.send_many(5)
    world.flush()
    copy = another(PREFIX, like=world.stores.ledger.url)
    world.send_many(5)
    with pytest.raises(PipelineRefused):
        copy.flush()
    done = adopt_pipeline(copy.stores)
    assert (done.changed, done.from_here, done.before, done.flush) == (True, False, world.identity.key, 2)
    copy.sent = Counter(world.sent)
    copy.flush()
    copy.assert_all_persisted()
    assert copy.incidents() == {}
    with pytest.raises(PipelineRefused):
        world.flush()
    assert not adopt_pipeline(copy.stores).changed


def test_a_copy_without_some_flushes_is_not_adopted_silently(world: World, another: MakeWorld) -> None:
    """The error names their number; with `from_here` their views are only in the other database."""
    world.send_many(5)
    world.flush()
    copy = another(PREFIX, like=world.stores.ledger.url)
    world.send_many(5)
    world.flush()
    world.send_many(5)
    with pytest.raises(CannotAdopt, match="this ledger ends at flush 2: it lacks the views of 2 flushes"):
        adopt_pipeline(copy.stores)
    assert adopt_pipeline(copy.stores, "from-here").from_here
    copy.flush()
    assert copy.counters() == {}
    assert copy.totals() == {f"vod{n:04d}": 6 for n in range(5)}


def test_a_ledger_of_another_origin_is_adopted_with_from_here_only(world: World, another: MakeWorld) -> None:
    """Its flushes were never in this Redis: nothing is subtracted for them."""
    world.send_many(5)
    world.flush()
    world.send_many(5)
    other = another(PREFIX)
    shop = World(Stores(RedisStore(other.client, other.stores.redis.url, SHOP), other.stores.ledger), SHOP)
    for _ in range(3):
        shop.send_many(5)
        shop.flush()
    with pytest.raises(PipelineRefused, match="settles the counters shop:views:"):
        World(Stores(RedisStore(other.client, other.stores.redis.url, "new:"), other.stores.ledger), "new:").flush()
    assert retire_pipeline(other.stores.redis, SHOP)
    with pytest.raises(CannotAdopt, match="from-here"):
        adopt_pipeline(other.stores)
    adopt_pipeline(other.stores, "from-here")
    other.flush()
    assert other.counters() == {}
    assert other.totals() == {f"vod{n:04d}": 12 for n in range(5)}


def test_a_copy_with_flushes_of_a_run_that_died(world: World, another: MakeWorld) -> None:
    """They were read from this Redis and are still to be subtracted: the operator who adopts confirms that."""
    world.send_many(4)
    world.flush()
    world.send_many(4)
    world.flush_unsettled()
    copy = another(PREFIX, like=world.stores.ledger.url)
    with pytest.raises(CannotAdopt, match="1 flush after flush 1"):
        adopt_pipeline(copy.stores)
    assert not adopt_pipeline(copy.stores, "settle-newer").from_here
    copy.sent = Counter(world.sent)
    assert copy.flush().notes.settled_before == 2
    copy.assert_all_persisted()


def test_both_servers_restored_into_another_database(world: World, another: MakeWorld) -> None:
    """Redis is the older backup: what the ledger has beyond it is settled again, as docs/operations.md describes."""
    world.send_many(4)
    world.flush()
    world.send_many(4, 3)
    backup = keys_of(world)
    world.send_many(4, 5)
    world.flush()
    restored = another(PREFIX, like=world.stores.ledger.url)
    world.client.flushall()
    for key, value in backup.items():
        world.client.restore(key, 0, value)
    with pytest.raises(CannotAdopt, match="1 flush after flush 1"):
        adopt_pipeline(restored.stores)
    adopt_pipeline(restored.stores, "settle-newer")
    assert restored.flush().notes.drift == 5 * 4
    restored.sent = Counter(world.sent)
    restored.assert_all_persisted()


def test_a_copy_that_flushed_beside_a_copy_of_redis(world: World, another: MakeWorld) -> None:
    """Its new flushes have the epoch of this Redis but were never in it: nothing is subtracted for them."""
    world.send_many(4)
    world.flush()
    world.send_many(4)
    copy = another(PREFIX, like=world.stores.ledger.url)
    dump = keys_of(world)
    world.client.delete(*dump)
    epoch = dump[b"viewer:settled"]
    world.client.restore("viewer:settled", 0, epoch)
    world.client.hset("viewer:settled", "ledger", copy.identity.key)
    copy.send_many(4, 50)
    copy.flush()
    world.client.flushall()
    for key, value in dump.items():
        world.client.restore(key, 0, value)
    with pytest.raises(CannotAdopt, match="1 flush after flush 1"):
        adopt_pipeline(copy.stores)
    adopt_pipeline(copy.stores, "from-here")
    copy.flush()
    assert copy.counters() == {}
    assert copy.totals() == {f"vod{n:04d}": 3 + 50 + 3 for n in range(4)}


def test_from_here_is_refused_where_it_would_count_twice(world: World, another: MakeWorld) -> None:
    """The ledger matches: starting at its end would leave its unsettled views in the counters."""
    world.send_many(4)
    world.flush()
    copy = another(PREFIX, like=world.stores.ledger.url)
    for stores in (copy.stores, world.stores):
        with pytest.raises(CannotAdopt, match="omit `--from-here`"):
            adopt_pipeline(stores, "from-here")


def test_the_original_takes_its_counters_back_from_a_physical_copy(world: World, another: MakeWorld) -> None:
    """The error names the remedy, which works; views that the copy has counted stay there."""
    world.send_many(2)
    world.flush()
    copy = as_physical_copy(another(PREFIX, like=world.stores.ledger.url), world.identity)
    world.send_many(2)
    world.flush()
    world.send_many(2)
    copy.flush()
    world.send_many(2)
    with pytest.raises(PipelineRefused, match="another copy of this database"):
        world.flush()
    with pytest.raises(CannotAdopt, match="lacks the views of 1 flush; `--from-here`"):
        adopt_pipeline(world.stores)
    adopt_pipeline(world.stores, "from-here")
    assert list(world.incidents()) == ["postgres_rolled_back"]
    world.flush()
    assert world.counters() == {}
    assert world.totals() == {f"vod{n:04d}": 9 for n in range(2)}


def test_no_adoption_while_the_other_worker_runs(world: World, another: MakeWorld) -> None:
    """It would continue folding into counters of another ledger."""
    folds = SubscriberScripts(world.stores.redis, increment=True)
    folds.acquire_or_renew_lease(
        claim(world.identity, folds.read_or_create_key_space_id(), "token", "host:1"), 60_000, 0
    )
    world.send_many(2)
    world.flush()
    copy = another(PREFIX, like=world.stores.ledger.url)
    with pytest.raises(CannotAdopt, match="the worker host:1 of the other database is alive"):
        adopt_pipeline(copy.stores)
    assert world.stores.redis.marker() is not None
    folds.release_lease("token", folds.read_or_create_key_space_id())
    adopt_pipeline(copy.stores)
    with pytest.raises(PipelineRefused):
        folds.acquire_or_renew_lease(claim(world.identity, folds.read_or_create_key_space_id(), "late"), 60_000, 0)


def test_a_run_during_an_adoption(world: World, another: MakeWorld) -> None:
    """Its commits are subtracted from nothing: the counters are the other ledger's by then."""
    world.send_many(4)
    world.flush()
    copy = another(PREFIX, like=world.stores.ledger.url)
    world.send_many(4)
    snapshot = drain(world.stores, world.request())
    settle = Settler._settle

    def adopted_first(settler: Settler, *arguments: Any) -> None:
        if not adopt_pipeline(copy.stores).changed:
            pytest.fail("adopted once")
        settle(settler, *arguments)

    with patch.object(Settler, "_settle", adopted_first), pytest.raises(PipelineRefused, match="during this run"):
        bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    copy.sent = Counter(world.sent)
    copy.flush()
    copy.assert_all_persisted()


def test_counters_read_before_an_adoption_are_not_committed(
    world: World, another: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second read of the marker finds another ledger there."""
    world.send_many(4)
    world.flush()
    copy = another(PREFIX, like=world.stores.ledger.url)
    world.send_many(4)
    read = RedisStore.read

    def adopted_first(store: RedisStore, *arguments: Any) -> Any:
        monkeypatch.undo()
        result = read(store, *arguments)
        adopt_pipeline(copy.stores)
        return result

    monkeypatch.setattr(RedisStore, "read", adopted_first)
    with pytest.raises(PipelineRefused):
        world.flush()
    assert len(world.seqs()) == 1
    copy.sent = Counter(world.sent)
    copy.flush()
    copy.assert_all_persisted()


# --- copies with the same identity ---


def test_a_physical_copy_with_a_prefix_of_its_own(world: World, another: MakeWorld) -> None:
    """It has the identity of the original, which must not be retired: the error suggests another Redis."""
    world.send_many(2)
    world.flush()
    copy = as_physical_copy(another(SHOP, like=world.stores.ledger.url), world.identity)
    with pytest.raises(PipelineRefused, match="a copy that has the same identity, give it a Redis of its own"):
        copy.flush()


def test_a_lagging_standby_is_no_rollback(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler read the newest flush from a standby, the rest from the primary: no flush counts as lost."""
    world.send_many(3)
    world.flush()
    with world.stores.ledger.connect() as connection:
        lagging = last_flush(connection, WHOLE)
    world.send_many(3)
    world.flush()
    world.send_many(3)
    monkeypatch.setattr("viewer_pipeline.flush.ledger.last_flush", lambda *_: lagging)
    assert world.flush().left_over
    monkeypatch.undo()
    world.send_many(3)
    world.flush()
    world.assert_all_persisted()


def test_a_physical_copy_with_flushes_of_its_own(world: World, another: MakeWorld) -> None:
    """It has another flush under the same number: it is refused, and subtracts nothing."""
    world.send_many(4)
    world.flush()
    copy = as_physical_copy(another(PREFIX, like=world.stores.ledger.url), world.identity)
    marker = world.stores.redis.marker()
    assert marker is not None
    dump = keys_of(world)
    for _ in range(2):  # beside a copy of Redis
        copy.send_many(4, 50)
        copy.flush()
    world.client.flushall()
    for key, value in dump.items():
        world.client.restore(key, 0, value)
    world.send_many(4)
    world.flush()
    world.send_many(4)
    before = keys_of(world)
    with pytest.raises(PipelineRefused, match="that is another copy of this database"):
        copy.flush()
    assert {**keys_of(world), b"viewer:settled": b""} == {**before, b"viewer:settled": b""}  # but for the run's id
    world.flush()
    world.assert_all_persisted()


def test_the_original_detects_a_physical_copy_that_continued(world: World, another: MakeWorld) -> None:
    """The copy looks like a restored database; the original has the flushes that the copy lost, so it is refused."""
    world.send_many(2)
    world.flush()
    copy = as_physical_copy(another(PREFIX, like=world.stores.ledger.url), world.identity)
    world.send_many(2)
    world.flush()
    world.send_many(2)
    assert copy.flush().notes.postgres_rolled_back
    copy.send_many(2)
    copy.flush()
    world.send_many(2)
    with pytest.raises(PipelineRefused, match="that is another copy of this database"):
        world.flush()
    assert len(world.seqs()) == 2
    with world.stores.ledger.connect() as connection:
        assert find_refusal(world.stores.redis, world.stores.ledger, connection) is not None


def test_a_copy_is_detected_although_the_first_run_after_a_recovery_died(world: World, another: MakeWorld) -> None:
    """It died between its commit and the first batch, which would have recorded the lost flushes."""
    world.send_many(2)
    world.flush()
    recovered = as_physical_copy(another(PREFIX, like=world.stores.ledger.url), world.identity)
    world.send_many(2)
    world.flush()
    world.send_many(2)
    assert recovered.flush_unsettled().notes.postgres_rolled_back
    world.send_many(2)
    recovered.flush()
    marker = world.stores.redis.marker()
    assert marker is not None
    assert marker.missing_flushes == (1, 2)
    with pytest.raises(PipelineRefused, match="another copy of this database"):
        world.flush()
    recovered.flush()
    assert recovered.counters() == {}
    assert recovered.totals() == {f"vod{n:04d}": 9 for n in range(2)}


def test_two_physical_copies_flush_concurrently(world: World, another: MakeWorld) -> None:
    """Both commit the same number: the batches of the second are subtracted from nothing, and it is refused."""
    world.send_many(4)
    world.flush()
    copy = as_physical_copy(another(PREFIX, like=world.stores.ledger.url), world.identity)
    world.send_many(4)
    planned = drain(world.stores, world.request())
    copied = drain(copy.stores, copy.request())
    world.send_many(4, 1)
    bulk_upsert(world.stores, planned, aggregate(planned.readings))
    with pytest.raises(PipelineRefused, match="another copy of this database"):
        bulk_upsert(copy.stores, copied, aggregate(copied.readings))
    world.flush()
    world.assert_all_persisted()


def test_recovery_to_a_point_in_time_needs_no_adoption(world: World) -> None:
    """The same database, older: an incident, and the run continues above the marker; also a second time."""
    for _ in range(3):
        world.send("a", 1)
        world.flush()
    for kept in (2, 1):
        world.execute("DELETE FROM viewer.flush_batch WHERE seq > %s", kept)
        world.execute("DELETE FROM viewer.flush WHERE seq > %s", kept)
        world.send("a", 1)
        assert world.flush().notes.postgres_rolled_back
        assert world.counters() == {}
        world.send("a", 1)
        assert not world.flush().notes.postgres_rolled_back
    assert world.seqs() == [1, 6, 7]


# --- what a role may not read; formats ---


def test_a_role_that_may_not_read_the_system_identifier(world: World, database_url: str) -> None:
    """The unknown part matches: before it gets the privilege, afterwards, and without it again."""
    role = "narrow_" + os.urandom(4).hex()
    revoke = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    world.execute(f"CREATE ROLE {role}; GRANT ALL ON SCHEMA viewer TO {role}; {revoke}")
    world.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA viewer TO {role}")
    narrow = World(Stores(world.stores.redis, Ledger(f"{database_url}?options=-crole%3D{role}")))
    try:
        assert narrow.identity.system == "unknown"
        for mine in (narrow, world, narrow):
            mine.send("a", 1)
            mine.flush()
        marker = world.stores.redis.marker()
        assert marker is not None
        assert "/unknown/" in marker.ledger
        assert adopt_pipeline(world.stores).changed
        for mine in (narrow, world):
            mine.send("a", 1)
            mine.flush()
        assert world.totals() == {"a": 5}
    finally:
        world.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        world.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")


@pytest.mark.parametrize("key", ["viewer:settled", "viewer:subscriber"])
def test_a_format_that_this_program_does_not_know(world: World, key: str) -> None:
    """A newer program wrote it: nothing is read, counted or folded."""
    folds = SubscriberScripts(world.stores.redis, increment=True)
    space = folds.read_or_create_key_space_id()
    world.send("a", 1)
    world.flush()
    world.send("a", 1)
    world.client.hset(key, "format", "3")
    before = keys_of(world)
    call = (
        world.flush
        if key == "viewer:settled"
        else lambda: folds.acquire_or_renew_lease(claim(world.identity, space, "t"), 1, 0)
    )
    with pytest.raises(PipelineRefused, match="format 3, and this program knows format 2 only"):
        call()
    if key == "viewer:subscriber":
        with pytest.raises(PipelineRefused, match="format 3"):
            folds.read_or_create_key_space_id()
    else:
        with pytest.raises(PipelineRefused, match="format 3"):
            world.stores.redis.register_pipeline(world.identity)
    assert keys_of(world) == before


def test_an_unreadable_entry_of_the_registry(world: World) -> None:
    """An unreadable entry refuses its pipeline, and the error shows the entry."""
    world.client.hset("viewer:pipelines", PREFIX, "rubbish")
    with pytest.raises(PipelineRefused, match="rubbish"):
        world.flush()
    world.client.hset("viewer:pipelines", PREFIX, "")
    with pytest.raises(PipelineRefused):
        world.flush()


def test_a_marker_with_unreadable_lost_flushes(world: World) -> None:
    """The error names the field."""
    world.send("a", 1)
    world.flush()
    world.client.hset("viewer:settled", "missing", "x")
    with pytest.raises(MarkerUnreadable, match="missing"):
        world.flush()
    world.client.hdel("viewer:settled", "missing")
    assert world.marker() == Marker(1, 1, 1)
