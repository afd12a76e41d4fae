"""R17: a PostgreSQL that lost flushes under a live run, on a standby that is really promoted; docs/adr/0021."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from viewer_pipeline.errors import MarkerMoved
from viewer_pipeline.flush import settle
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import last_flush, read_batches_after
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.failover import PostgresPair
from viewer_pipeline_tests.support.world import World

ANOTHER_FILE = "VACUUM FULL viewer.flush"  # changes the timeline as a restore of the table would


def timeline_of(url: str) -> str:
    """Read the timeline."""
    with psycopg.connect(url, autocommit=True) as connection:
        return last_flush(connection, WHOLE).timeline


def change_timeline(world: World) -> None:
    """Let the ledger have another timeline, with all flushes."""
    before = timeline_of(world.stores.ledger.url)
    with psycopg.connect(world.stores.ledger.url, autocommit=True) as connection:
        connection.execute(ANOTHER_FILE)
    assert timeline_of(world.stores.ledger.url) != before


@pytest.mark.parametrize("flushes_before", [0, 1])
def test_a_failover_loses_a_flush_that_its_run_is_about_to_settle(
    postgres_pair: PostgresPair, behind: World, monkeypatch: pytest.MonkeyPatch, flushes_before: int
) -> None:
    """Meanwhile the new primary has another flush under that number, with more views: only this one is settled."""
    for _ in range(flushes_before):
        behind.send_many(3)
        behind.flush()
    behind.send_many(3)
    snapshot, aggregated = behind.drain()
    postgres_pair.catch_up()
    postgres_pair.separate()
    settle_batches = settle.settle_batches

    def fail_over_and_settle(*arguments: Any) -> Any:
        monkeypatch.undo()
        postgres_pair.promote()
        postgres_pair.lead_to(postgres_pair.standby)
        behind.send_many(3)
        behind.flush_unsettled()
        return settle_batches(*arguments)

    monkeypatch.setattr(settle, "settle_batches", fail_over_and_settle)
    with pytest.raises(MarkerMoved, match=r"may have lost flushes: .* replaced timeline"):
        bulk_upsert(behind.stores, snapshot, aggregated)
    assert behind.seqs() == [*range(1, flushes_before + 1), flushes_before + 1]
    assert behind.flush().notes.settled_before == 2
    behind.assert_all_persisted()


def test_a_failover_before_the_commit(postgres_pair: PostgresPair, behind: World) -> None:
    """The run is superseded, reads again from the new primary, and commits there."""
    behind.send_many(3)
    snapshot, aggregated = behind.drain()
    postgres_pair.catch_up()
    postgres_pair.promote()
    postgres_pair.lead_to(postgres_pair.standby)
    behind.send_many(3)
    assert bulk_upsert(behind.stores, snapshot, aggregated).notes.superseded == 1
    behind.assert_all_persisted()


def test_the_timeline_is_new_in_the_first_result_after_a_promotion(postgres_pair: PostgresPair) -> None:
    """Although its control file has the old one until the next checkpoint."""
    before = timeline_of(postgres_pair.primary.url)
    postgres_pair.catch_up()
    assert timeline_of(postgres_pair.standby.url) == "unknown"
    postgres_pair.promote()
    first = timeline_of(postgres_pair.standby.url).split("/")
    assert first[0] == "00000002"
    assert before.startswith("00000001/")


def test_a_marker_keeps_a_timeline_that_the_run_has_not_seen(world: World) -> None:
    """Else a run that read the ledger of the old primary would write its timeline over that of the new one."""
    world.flush()
    with world.stores.ledger.connect() as connection:
        identity, last = world.stores.ledger.identity(connection), last_flush(connection, WHOLE)
    old, redis = last._replace(timeline="old"), world.stores.redis
    assert redis.begin("late", old, identity)[1].timeline == last.timeline
    assert redis.begin("late", old, identity, "older")[1].timeline == last.timeline
    assert redis.begin("late", old, identity, last.timeline)[1].timeline == "old"
    world.send_many(3)
    world.flush()  # sees "old", reads the ledger again, replaces it
    world.assert_all_persisted()
    marker = redis.marker()
    assert marker is not None
    assert marker.timeline == last.timeline


def test_a_settling_script_of_another_timeline_is_refused(world: World) -> None:
    """And changes nothing."""
    world.send_many(2)
    world.flush_unsettled()
    with world.stores.ledger.connect() as connection:
        batches, _ = read_batches_after(connection, 0, 0, 9, 100)
    marker = world.at(0, 0, 0)._replace(timeline="another")
    assert world.stores.redis.settle(marker, batches).refused
    assert world.counters() == dict(world.sent)
    world.flush()
    world.assert_all_persisted()


def test_batches_that_were_read_in_another_timeline_are_not_settled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that settles what an earlier one left fails, and the next one settles it."""
    world.send_many(2)
    world.flush_unsettled()

    def change_and_list(*arguments: Any) -> Any:
        change_timeline(world)
        return read_batches_after(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(settle, "read_batches_after", change_and_list)
        with pytest.raises(MarkerMoved, match="may have lost flushes: its timeline is"):
            world.flush()
    assert world.counters() == dict(world.sent)
    assert world.flush().notes.settled_before == 1
    world.assert_all_persisted()


@pytest.mark.parametrize("had_marker", [True, False])
def test_a_new_timeline_costs_one_more_read_of_the_ledger(world: World, had_marker: bool) -> None:
    """Also a marker of a program that wrote none."""
    if had_marker:
        world.send_many(2)
        world.flush()
        world.client.hdel(world.stores.redis.names.marker, "timeline")
    change_timeline(world)
    world.send_many(2)
    assert world.flush().notes.superseded == 0
    world.assert_all_persisted()


def test_a_server_that_refuses_the_functions(world: World) -> None:
    """The timeline is unknown, nothing fails, and no run is refused once it is known again."""
    function = "FUNCTION pg_catalog.pg_walfile_name(pg_lsn)"
    role, rights = (
        "CREATE ROLE timeline_limited LOGIN PASSWORD 'any'",
        "GRANT ALL ON ALL TABLES IN SCHEMA viewer TO timeline_limited",
    )
    with psycopg.connect(world.stores.ledger.url, autocommit=True) as connection:
        for statement in (
            role,
            "GRANT USAGE ON SCHEMA viewer TO timeline_limited",
            rights,
            f"REVOKE EXECUTE ON {function} FROM PUBLIC",
        ):
            connection.execute(statement)
    try:
        with psycopg.connect(world.stores.ledger.url) as connection:
            address = connection.info
            url = f"postgresql://timeline_limited:any@{address.host}:{address.port}/{address.dbname}"
        limited = World(Stores(world.stores.redis, Ledger(url)))
        for _ in range(2):
            limited.send_many(3)
            limited.flush()
        limited.assert_all_persisted()
        assert timeline_of(url) == "unknown"
        world.sent.update(limited.sent)
    finally:
        with psycopg.connect(world.stores.ledger.url, autocommit=True) as connection:
            connection.execute(f"GRANT EXECUTE ON {function} TO PUBLIC")
            connection.execute("DROP OWNED BY timeline_limited")
            connection.execute("DROP ROLE timeline_limited")
    world.send_many(3)
    world.flush()
    world.assert_all_persisted()
