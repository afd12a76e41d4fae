"""The upgrade from version 0.1.0, started from half-finished states: every view is counted once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import pytest
import redis

from viewer_pipeline.cli.grants.acl import acl_line
from viewer_pipeline.errors import (
    MarkerMoved,
    PipelineRefused,
    RedisFailed,
    RedisRefusesWrites,
    RedisUnavailable,
    SchemaMissing,
)
from viewer_pipeline.flush import redis_upgrade as upgrade_module
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.subscriber_scripts import SubscriberScripts
from viewer_pipeline.migrations.migrate import migrate, migrate_all
from viewer_pipeline.redis_names import DEFAULT_PREFIX, OLD_CHANGED, OLD_MARKER, OLD_SUBSCRIBER, REGISTRY_KEY
from viewer_pipeline.stack import postgres_and_redis_migration
from viewer_pipeline.stack.postgres_and_redis_migration import MigrationResult
from viewer_pipeline_tests.support.claims import claim, identity_of
from viewer_pipeline_tests.support.old_version import OLD, OldPrograms
from viewer_pipeline_tests.support.stored import PAIRS, Stored
from viewer_pipeline_tests.support.waiting import seconds_of_fastest
from viewer_pipeline_tests.support.world import World

BEFORE, AFTER = "0007", "0014"
LEASE_MS = 60_000
STATE = r"Redis holds the state of version 0\.1\.0"
DEFAULT, SHOP = "half_settled-default", "half_settled-shop"
MARKER_NAMES = {"seq": "flush", "of": "batches", "untold": "unreported"}
SUBSCRIBER_NAMES = {"turn": "term", "heard": "last_message", "of": "parts"}
LEFT = {"holder", "who", "until", "checked"}  # fields without meaning once every worker is stopped


def only(*pairs: str) -> pytest.MarkDecorator:
    """Use only these pairs."""
    return pytest.mark.parametrize("stored", pairs, indirect=True)


def renamed(fields: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """Return fields under their present names."""
    return {names.get(name, name): value for name, value in fields.items()}


def identity_key(stored: Stored) -> str:
    """Return the ledger of an upgraded pair, as Redis stores it."""
    return identity_of(stored.settings.require_database_url()).key


def take_lease(stored: Stored, **known: Any) -> tuple[SubscriberScripts, str]:
    """Subscribe and take the lease as a new worker that received every segment above 5; return it and its cuts' id."""
    folds = SubscriberScripts(RedisStore(stored.client, stored.server.url, stored.prefix), increment=True)
    key_space, term = folds.read_or_create_key_space_id(), int(stored.client.hget(stored.names.subscriber, "term") or 0)
    identity = identity_of(stored.settings.require_database_url())
    lease = folds.acquire_or_renew_lease(
        claim(identity, key_space, "new", term=term, complete_after=5, **known), LEASE_MS, 0
    )
    assert lease.outcome == "acquired"
    assert lease.term == term + 1
    return folds, key_space


CATALOG = """
    SELECT 'column', table_name, column_name, data_type, column_default, is_nullable, collation_name
    FROM information_schema.columns WHERE table_schema = 'viewer'
    UNION ALL SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL
    FROM pg_indexes WHERE schemaname = 'viewer'
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL
    FROM pg_constraint WHERE connamespace = 'viewer'::regnamespace AND contype <> 'n'
    UNION ALL SELECT 'comment', c.relname, objsubid::text, description, NULL, NULL, NULL
    FROM pg_description JOIN pg_class AS c ON c.oid = objoid WHERE c.relnamespace = 'viewer'::regnamespace
    UNION ALL SELECT 'options', relname, reloptions::text, NULL, NULL, NULL, NULL
    FROM pg_class WHERE relnamespace = 'viewer'::regnamespace AND relkind = 'r'
    ORDER BY 1, 2, 3, 4
"""


@only(DEFAULT)
def test_an_upgraded_schema_equals_a_new_one(stored: Stored, world: World) -> None:
    """Columns, indexes, constraints, comments and storage options."""
    stored.migrate()
    assert stored.rows(CATALOG) == world.rows(CATALOG)


def test_every_view_counts_once(stored: Stored) -> None:
    """After a flush, all views sent are in the totals, and half-finished work is complete."""
    assert stored.migrate() == MigrationResult(BEFORE, AFTER, redis_moved=True)
    persisted = stored.flush()
    assert stored.totals() == stored.expected["sent"]
    assert persisted.notes.drift == 0
    assert persisted.notes.settled_before == stored.expected["unsettled"]["batches"]
    emptied = stored.expected["marker"].get("untold") == "1"
    assert persisted.notes.redis_emptied is emptied
    assert stored.rows("SELECT kind FROM viewer.incident") == ([("redis_emptied",)] if emptied else [])
    assert stored.flush().views == 0
    assert stored.totals() == stored.expected["sent"]


def test_old_state_is_refused_before_the_upgrade(stored: Stored) -> None:
    """Everything that reads the marker fails with the remedy."""
    for call in (stored.stores.redis.marker, stored.flush):
        if stored.prefix == DEFAULT_PREFIX or call == stored.flush:
            with pytest.raises((PipelineRefused, SchemaMissing), match="viewer-pipeline migrate"):
                call()
    migrate(stored.settings.require_database_url(), with_dagster=False)  # the schema alone
    with pytest.raises(PipelineRefused, match="viewer-pipeline migrate"):
        stored.flush()


def test_all_state_is_moved(stored: Stored) -> None:
    """Marker, changed set and subscriber have all of their fields, under their present names; no old key is left."""
    stored.migrate()
    ledger = identity_key(stored)
    place = identity_of(stored.settings.require_database_url()).place
    own = {"format": "2", "ledger": ledger, "place": place}
    mine = stored.prefix == DEFAULT_PREFIX
    marker = renamed(stored.expected["marker"], MARKER_NAMES)
    marker |= own | {"flush_id": stored.expected["ledger"]["last_flush_id"]}
    subscriber = {name: value for name, value in stored.expected["subscriber"].items() if name not in LEFT}
    subscriber = renamed(subscriber, SUBSCRIBER_NAMES) | own
    assert stored.hash(stored.names.marker) == marker | ({"seq": OLD} if mine else {})
    assert stored.hash(stored.names.subscriber) == subscriber | ({"until": OLD} if mine else {})
    changed: Any = stored.client.zrange(stored.names.changed, 0, -1, withscores=True)
    assert {name.decode(): score for name, score in changed} == stored.expected["changed"]
    assert stored.hash(REGISTRY_KEY) == {stored.prefix: f"{ledger} {place}"}
    assert stored.keys() == {*stored.names.pipeline_keys, *stored.names.registration_keys()}
    if not mine:
        assert stored.hash(OLD_MARKER) == {"format": "2", "seq": OLD}
        assert stored.hash(OLD_SUBSCRIBER) == {"format": "2", "until": OLD}


def test_a_half_folded_segment_is_completed(stored: Stored) -> None:
    """A worker that received all of it folds the missing parts; its own cuts are numbered above."""
    stored.migrate()
    folds, key_space = take_lease(stored)
    assert key_space == stored.expected["subscriber"]["id"]
    half = stored.expected["half_folded"]
    views = Counter(half["written"]) + Counter(half["not_written"])
    assert folds.fold_segment("new", half["segment"], views, 1).written
    assert folds.publish_cut(key_space, "new", 0) == half["segment"] + 1
    stored.flush()
    assert stored.totals() == dict(Counter(stored.expected["sent"]) + Counter(half["not_written"]))


@only(DEFAULT, SHOP)
def test_a_second_upgrade_changes_nothing(stored: Stored) -> None:
    """The second time there is nothing to move."""
    stored.migrate()
    before = stored.everything()
    assert stored.migrate() == MigrationResult(AFTER, AFTER, redis_moved=False)
    assert stored.everything() == before


def test_a_crash_between_the_servers(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL is migrated, Redis is not: nothing of this version counts, and the next `migrate` continues."""

    def crash(_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(postgres_and_redis_migration, "upgrade_redis", crash)
        with pytest.raises(KeyboardInterrupt):
            stored.migrate()
    assert stored.schema == AFTER
    with pytest.raises(PipelineRefused, match=STATE):
        stored.flush()
    with pytest.raises(PipelineRefused, match=STATE):
        take_lease(stored)
    assert stored.migrate() == MigrationResult(AFTER, AFTER, redis_moved=True)
    half = stored.expected["half_folded"]
    folds, _ = take_lease(stored)
    folds.fold_segment("new", half["segment"], Counter(half["written"]) + Counter(half["not_written"]), 1)
    assert stored.flush().notes.settled_before == stored.expected["unsettled"]["batches"]
    assert stored.totals() == dict(Counter(stored.expected["sent"]) + Counter(half["not_written"]))


@only(SHOP)
def test_redis_is_unreachable_before_the_upgrade(stored: Stored) -> None:
    """Then PostgreSQL is not migrated either."""
    stored.server.stop()
    with pytest.raises(RedisUnavailable):
        stored.migrate()
    assert stored.schema == BEFORE
    stored.server.start()
    assert stored.migrate().redis_moved
    stored.flush()
    assert stored.totals() == stored.expected["sent"]


@only(SHOP)
def test_redis_hangs_before_the_upgrade(stored: Stored) -> None:
    """It accepts connections, and never replies: an error within seconds, and PostgreSQL is not migrated."""
    (pid,) = stored.server.process.descendant_pids()
    os.kill(pid, signal.SIGSTOP)

    def migrate() -> None:
        with pytest.raises(RedisUnavailable, match="does not answer"):
            stored.migrate()

    try:
        assert seconds_of_fastest(migrate, 30) < 30  # 4 on a machine that is not busy; 84 before
    finally:
        os.kill(pid, signal.SIGCONT)
    assert stored.schema == BEFORE
    assert stored.migrate().redis_moved


@only(SHOP)
def test_redis_is_unreachable_after_the_upgrade(stored: Stored) -> None:
    """After the upgrade, programs start without Redis: `migrate`, their first step, notes it and succeeds."""
    stored.migrate()
    stored.server.stop()
    messages: list[str] = []
    done = postgres_and_redis_migration.migrate_postgres_and_redis(stored.settings, messages.append)
    assert done == MigrationResult(AFTER, AFTER, redis_moved=False)
    assert [line.partition(": ")[0] for line in messages] == ["did not check Redis for state of version 0.1.0"]
    stored.server.start()


@only(SHOP)
def test_redis_is_unreachable_during_the_upgrade(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL was migrated, Redis was not: that is an error, and the next `migrate` continues."""

    def stop(*_: object) -> tuple[str, str]:
        migrate_all(stored.settings)
        stored.server.stop()
        return BEFORE, AFTER

    with monkeypatch.context() as patch:
        patch.setattr(postgres_and_redis_migration, "migrate_all", stop)
        with pytest.raises(RedisUnavailable):
            stored.migrate()
    stored.server.start()
    assert stored.migrate() == MigrationResult(AFTER, AFTER, redis_moved=True)
    stored.flush()
    assert stored.totals() == stored.expected["sent"]


@only(SHOP)
def test_a_run_of_the_old_version_settles_meanwhile(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker moves to another flush: nothing is moved, and the next attempt succeeds."""

    def settle(*_: object) -> None:
        stored.client.hincrby(OLD_MARKER, "seq", 1)

    with monkeypatch.context() as patch:
        patch.setattr(upgrade_module, "_require_any_flush", settle)
        with pytest.raises(MarkerMoved, match=r"a run of version 0\.1\.0 settled meanwhile"):
            stored.migrate()
    assert stored.hash(OLD_MARKER)["seq"] == "8"
    assert stored.migrate().redis_moved


@only(DEFAULT, SHOP)
def test_a_user_with_the_rights_of_the_old_version(stored: Stored) -> None:
    """Redis is tried before PostgreSQL is changed: it may refuse the keys of this version."""
    stored.client.acl_setuser("old", enabled=True, nopass=True, categories=["+@all"], keys=[OLD_MARKER, OLD_SUBSCRIBER])
    before = stored.everything()
    url = stored.server.url.replace("://", "://old:any@")
    with pytest.raises(RedisFailed, match=r"(?i)permission"):
        postgres_and_redis_migration.migrate_postgres_and_redis(
            stored.settings.copy_unvalidated(redis_url=url), lambda _: None
        )
    assert stored.schema == BEFORE
    assert stored.everything() == before


@only(DEFAULT, SHOP)
def test_a_user_with_the_rights_of_this_version(stored: Stored) -> None:
    """After the upgrade, `migrate` needs no Redis commands that other programs do not need."""
    stored.migrate()
    line = acl_line("own", stored.settings, "0" * 64).replace("#" + "0" * 64, "nopass")
    stored.client.execute_command(*line.split())  # type: ignore[no-untyped-call]
    url = stored.server.url.replace("://", "://own:any@")
    assert (
        postgres_and_redis_migration.migrate_postgres_and_redis(
            stored.settings.copy_unvalidated(redis_url=url), lambda _: None
        ).redis_moved
        is False
    )


@only(DEFAULT)
def test_a_pipeline_that_has_never_flushed_gets_no_marker_of_another(stored: Stored) -> None:
    """Two of version 0.1.0 on one Redis: a ledger without flushes cannot have settled any."""
    stored.execute("TRUNCATE viewer.flush, viewer.flush_batch")
    before = stored.everything()
    with pytest.raises(PipelineRefused, match=r"settled up to flush 6, and the ledger of .* has no flush"):
        stored.migrate()
    assert stored.schema == BEFORE
    assert stored.everything() == before


@only(SHOP)
def test_a_prefix_that_overlaps_a_registered_one(stored: Stored) -> None:
    """Another pipeline of this version counts some of its keys: refused before anything is changed."""
    stored.client.hset(REGISTRY_KEY, "shop:", "9f/7/5 elsewhere:5432/shop")
    with pytest.raises(PipelineRefused, match=r"the prefix 'shop:' of the pipeline of elsewhere:5432/shop overlap"):
        stored.migrate()
    assert stored.schema == BEFORE


@only(DEFAULT, SHOP)
def test_redis_is_out_of_memory(stored: Stored) -> None:
    """Then nothing is moved, and nothing lost; once there is room, `migrate` continues."""
    before = stored.everything()
    stored.client.config_set("maxmemory", 1)
    with pytest.raises(RedisRefusesWrites):
        stored.migrate()
    assert stored.everything() == before
    stored.client.config_set("maxmemory", 0)
    assert stored.migrate() == MigrationResult(AFTER, AFTER, redis_moved=True)
    stored.flush()
    assert stored.totals() == stored.expected["sent"]


@only(SHOP)
@pytest.mark.parametrize("key", ["marker", "subscriber"])
def test_a_foreign_key_has_the_new_name(stored: Stored, key: str) -> None:
    """It is of another type: nothing is moved, and nothing lost."""
    name = getattr(stored.names, key)
    stored.client.set(name, "theirs")
    before = stored.everything()
    with pytest.raises(RedisFailed, match="WRONGTYPE"):
        stored.migrate()
    assert stored.everything() == before
    stored.client.delete(name)
    assert stored.migrate().redis_moved


@only(SHOP)
def test_early_announcements_are_merged(stored: Stored) -> None:
    """Members of both changed sets are in the remaining one, each with its first announcement."""
    early, late = list(stored.expected["changed"])[:2]
    stored.client.zadd(stored.names.changed, {early: 1, late: 9e15, "new": 5})
    stored.migrate()
    changed: Any = stored.client.zrange(stored.names.changed, 0, -1, withscores=True)
    expected = stored.expected["changed"] | {early: 1, "new": 5}
    assert {name.decode(): score for name, score in changed} == expected
    assert stored.client.exists(OLD_CHANGED) == 0


@only(SHOP)
def test_a_foreign_key_has_the_old_name(stored: Stored) -> None:
    """A foreign key with the old name is left alone."""
    stored.client.set(OLD_CHANGED, "theirs")
    stored.migrate()
    stored.flush()
    assert stored.client.get(OLD_CHANGED) == b"theirs"
    assert stored.totals() == stored.expected["sent"]


@only(*PAIRS[:2])
def test_an_old_program_after_the_guard_was_lost(stored: Stored) -> None:
    """State it created under the old keys does not replace the state of this version."""
    stored.migrate()
    stored.flush()
    folds, key_space = take_lease(stored)
    assert folds.publish_cut(key_space, "new", 0) == 7
    stored.client.delete(OLD_SUBSCRIBER)
    if stored.prefix != DEFAULT_PREFIX:
        stored.client.delete(OLD_MARKER)
    old = OldPrograms(stored.client, stored.prefix)
    marker, subscriber = stored.stores.redis.marker(), stored.hash(stored.names.subscriber)
    stored.client.hset(OLD_SUBSCRIBER, "id", "theirs")
    old.begin("run", 9, 1, "epoch of theirs")
    assert stored.migrate().redis_moved
    assert stored.stores.redis.marker() == marker
    if stored.prefix != DEFAULT_PREFIX:
        assert stored.hash(stored.names.subscriber) == subscriber
    with pytest.raises(redis.ResponseError):
        old.lease("theirs", "theirs")
    assert stored.flush().views == 0
    assert stored.totals() == stored.expected["sent"]
