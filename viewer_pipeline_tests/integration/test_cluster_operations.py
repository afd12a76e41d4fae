"""Repairs, decisions about held views, retention and retirement on a real Redis Cluster."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import psycopg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import CannotAdopt, PipelineRefused, RedisUnavailable
from viewer_pipeline.flush import adoption
from viewer_pipeline.flush.adoption import adopt_pipeline
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.ledger_identity import UNKNOWN
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.flush.retirement import retire_pipeline
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.history.pruning import prune_ledger
from viewer_pipeline.layout import HOME_SLOT
from viewer_pipeline.reconcile.adjustment_transaction import Adjuster
from viewer_pipeline.reconcile.held_views import count_held, held_by_epoch
from viewer_pipeline.reconcile.reconciliation import ReconcileRequest, ReconcileResult, reconcile
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.postgres_and_redis_migration import migrate_postgres_and_redis
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.cluster import RedisCluster
from viewer_pipeline_tests.support.cluster_node import ClusterNode
from viewer_pipeline_tests.support.cluster_world import ClusterWorld, opened
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.servers import Postgres, copy_database
from viewer_pipeline_tests.support.world import PREFIX

VODS = 30


@pytest.fixture
def world(cluster_world: ClusterWorld) -> ClusterWorld:
    """An empty cluster and an empty ledger."""
    return cluster_world


def reconcile_once(world: ClusterWorld, reports: Path, **options: Any) -> ReconcileResult:
    """Reconcile in batches of two."""
    return reconcile(world.stores, ReconcileRequest(uuid4().hex, reports, batch_size=2, **options))


def markers(world: ClusterWorld) -> dict[int, Marker | None]:
    """Return the marker of each shard."""
    return as_cluster(world.stores.redis).shard_markers()


def node_without_home(world: ClusterWorld) -> ClusterNode:
    """Return a primary that has counters only."""
    home = world.cluster.node_of_slot(HOME_SLOT)
    return next(node for node in world.cluster.primaries() if node is not home)


def test_migrate(world: ClusterWorld) -> None:
    """It looks for state of version 0.1.0 where that of a cluster would be, in one slot, and finds none."""
    settings, lines = Settings(redis_url=world.stores.redis.url, database_url=world.stores.ledger.url), list[str]()
    assert migrate_postgres_and_redis(settings, lines.append).redis_moved is False
    assert lines == []


def test_reconcile(world: ClusterWorld, tmp_path: Path) -> None:
    """A repair supersedes a run that read before it, and subtracts nothing. What should be settled is a difference."""
    world.send_many(VODS)
    world.flush()
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 5 WHERE vod_id < 'vod0004'")
    world.send_many(VODS, 1)
    snapshot, aggregated = world.drain()
    result = reconcile_once(world, tmp_path, repair=True)
    assert (result.repaired["total"], result.remaining) == (4, 0)
    assert bulk_upsert(world.stores, snapshot, aggregated).notes.superseded == 1
    world.assert_all_persisted()
    world.send_many(VODS)
    world.flush_unsettled()
    assert reconcile_once(world, tmp_path).remaining == 0
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    (difference,) = reconcile_once(world, tmp_path).first_differences
    assert difference.kind == "marker"
    assert difference.message.startswith(f"8 flushes committed and not settled in {VODS} shards, the oldest 2 min")
    world.flush()
    assert reconcile_once(world, tmp_path).remaining == 0


@contextmanager
def short_time_out(world: ClusterWorld) -> Iterator[None]:
    """Within the block, a node that does not answer is given up after half a second."""
    stores, url = world.stores, f"{world.stores.redis.url}?socket_timeout=0.5"
    with connect(url) as client:
        world.stores = replace(stores, redis=ClusterStore(client, url, PREFIX))
        yield
    world.stores = stores


def test_held_views_are_counted(world: ClusterWorld) -> None:
    """A node lost its data, and new views came in there: they are held, and an operator decides."""
    world.send_many(VODS)
    world.flush()
    node_without_home(world).client.flushall()
    world.send_many(VODS)
    world.flush()
    held = world.held()
    assert held
    with world.stores.ledger.connect() as connection:
        epochs = held_by_epoch(connection)
        assert sum(epoch.views for epoch in epochs) == held.total()
        adjuster = Adjuster(world.stores, connection, uuid4().hex, 2)
        for epoch in epochs:
            count_held(adjuster, None, epoch.epoch, 4)
    assert world.held() == Counter()
    report = world.flush()
    assert [check.status for check in verify(world.stores, report)] == ["healthy"] * 4
    world.assert_all_persisted()


def old_flushes(world: ClusterWorld) -> History:
    """Commit a flush on each of three old days, and roll the days up."""
    history, today = History(world), datetime.now(UTC).date()
    for ago in (42, 41, 40):
        history.send_and_flush(at(today - ONE * ago), {f"vod{ago}": ago, "often": 1})
    history.roll_up(today - ONE * 50, today - ONE * 30)
    return history


def prune(world: ClusterWorld) -> int:
    """Prune the ledger as the retention job does; return how many flushes."""
    before = datetime.now(UTC).date() - ONE * 30
    with world.stores.ledger.connect() as connection:
        markers, obstacle = read_retention_position(world.stores, connection, "prune")
        if obstacle:
            raise RedisUnavailable(obstacle)
        zone = History(world).zone
        return prune_ledger(connection, before, markers, 60, zone, keep_flush_of_marker=True).flushes


def test_retention_keeps_the_flush_that_markers_stand_at(world: ClusterWorld) -> None:
    """Although newer flushes follow: other shards do not move."""
    old_flushes(world)
    with world.stores.ledger.connect() as connection:
        position = read_retention_position(world.stores, connection, "prune")
    assert len(position.markers) == 1
    world.send("vod", 1)
    world.flush()
    with world.stores.ledger.connect() as connection:
        before, zone = datetime.now(UTC).date() - ONE * 30, History(world).zone
        pruned = prune_ledger(connection, before, position.markers, 60, zone, keep_flush_of_marker=True)
    assert (pruned.flushes, world.seqs()) == (2, [3, 4])
    world.send_many(VODS)
    assert world.flush().notes.sentences() == []
    world.assert_all_persisted()


def test_retention_prunes_nothing_while_a_node_is_down(world: ClusterWorld) -> None:
    """Its markers cannot be advanced. The reason names it."""
    old_flushes(world)
    down = node_without_home(world)
    with short_time_out(world):
        down.pause()
        with pytest.raises(RedisUnavailable, match="shards of the cluster cannot be settled now") as raised:
            prune(world)
        down.resume()
    world.cluster.wait_until_agreed(lambda _: True, "on a busy machine, it was down for long enough to fail over")
    assert str(down.port) in str(raised.value)
    assert world.seqs() == [1, 2, 3]
    assert prune(world) == 2


def test_a_pipeline_is_retired_with_all_its_markers(world: ClusterWorld) -> None:
    """Committed views are subtracted first; the remaining ones are for the next pipeline."""
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS)
    world.flush_unsettled()
    world.send_many(VODS, 1)
    with pytest.raises(CannotAdopt, match="are left"):
        retire_pipeline(world.stores.redis, PREFIX)
    assert retire_pipeline(world.stores.redis, PREFIX, settled_by=world.stores.ledger)
    assert world.counters() == {f"vod{number:04d}": 1 for number in range(VODS)}
    assert set(markers(world).values()) == {None}
    assert not retire_pipeline(world.stores.redis, "unknown:")
    world.execute("TRUNCATE viewer.vod_view_counts, viewer.flush, viewer.flush_batch CASCADE")
    world.sent = Counter(world.counters())
    world.flush()
    world.assert_all_persisted()


@pytest.fixture
def copy_of(postgres_server: Postgres, redis_cluster: RedisCluster) -> Iterator[Callable[[ClusterWorld], ClusterWorld]]:
    """Copy the database of a world, as a restored dump has it: on the same cluster, with another identity."""
    name = "copy_" + os.urandom(6).hex()
    with (
        psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection,
        ExitStack() as stack,
    ):

        def copy(world: ClusterWorld) -> ClusterWorld:
            original = world.stores.ledger.url.rpartition("/")[2]
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [original])
            copy_database(connection, name, original)
            copied = stack.enter_context(opened(redis_cluster, postgres_server.url_of_database(name)))
            copied.sent = Counter(world.sent)
            return copied

        yield copy
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def unknown_system(world: ClusterWorld) -> str:
    """Return the ledger as a role knows it that may not read the system identifier."""
    return world.identity._replace(system=UNKNOWN).key


CopyOf = Callable[[ClusterWorld], ClusterWorld]


def test_a_restored_dump_is_adopted(world: ClusterWorld, copy_of: CopyOf) -> None:
    """Each shard continues where it was settled to. What a run that died had left is subtracted, once confirmed."""
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS)
    world.flush_unsettled()
    redis = as_cluster(world.stores.redis)
    for key in (redis.names.marker, *(redis.layout.marker_key(shard) for shard in redis.layout.shards[:9])):
        world.client.hset(key, "ledger", unknown_system(world))
    world.client.hset(redis.names.registry, PREFIX, f"{unknown_system(world)} elsewhere")
    assert adopt_pipeline(world.stores).changed  # it records the system, which the role may read by now
    assert not adopt_pipeline(world.stores).changed
    assert {marker and marker.ledger for marker in markers(world).values()} == {world.identity.key}
    copy = copy_of(world)
    with pytest.raises(PipelineRefused, match="adopt"):
        copy.flush()
    with pytest.raises(CannotAdopt, match="8 flushes after flush 8"):
        adopt_pipeline(copy.stores)
    assert adopt_pipeline(copy.stores, "settle-newer").changed
    assert not adopt_pipeline(copy.stores).changed
    with pytest.raises(PipelineRefused):
        world.flush()
    copy.send("vod0001", 1)
    report = copy.flush()
    assert report.notes.settled_before == VODS
    copy.assert_all_persisted()
    assert copy.held() == Counter()


def test_an_older_dump_is_adopted_from_here(world: ClusterWorld, copy_of: CopyOf) -> None:
    """Shards that were flushed since continue from its end, the others where they are. It may be repeated half-way."""
    world.send_many(VODS)
    world.flush()
    copy = copy_of(world)
    for number in range(5):
        world.send(f"vod{number:04d}", 10)
    world.flush()
    world.send_many(VODS, 1)
    copy.sent = Counter(copy.totals()) + Counter(world.counters())
    with pytest.raises(CannotAdopt, match="5 shards of Redis were settled up to a flush that this ledger does not con"):
        adopt_pipeline(copy.stores)
    with (
        patch.object(adoption, "adopt_shards", side_effect=RedisUnavailable("it died")),
        pytest.raises(RedisUnavailable),
    ):
        adopt_pipeline(copy.stores, "from-here")
    with pytest.raises(PipelineRefused):
        copy.flush()
    assert adopt_pipeline(copy.stores, "from-here").from_here
    with pytest.raises(CannotAdopt, match="omit"):
        adopt_pipeline(copy.stores, "from-here")
    assert copy.flush().notes.sentences() == []
    copy.assert_all_persisted()
    assert copy.held() == Counter()


def test_a_repair_of_an_emptied_cluster(world: ClusterWorld, tmp_path: Path) -> None:
    """It makes the markers, as a flush would; its number is above all that were there."""
    world.send_many(VODS)
    world.flush()
    for node in world.cluster.primaries():
        node.client.flushall()
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count + 5 WHERE vod_id = 'vod0001'")
    assert reconcile_once(world, tmp_path, repair=True).repaired["total"] == 1
    assert world.incidents().keys() == {"redis_emptied"}
    assert None not in markers(world).values()
    world.send("new", 1)
    world.flush()
    world.assert_all_persisted()


def test_retention_beside_a_run(world: ClusterWorld, dagster: DagsterWorld, dagster_settings: Settings) -> None:
    """It advances all markers, so none stands at a flush that is deleted; a run between read and commit continues."""
    old_flushes(world)
    world.send_many(VODS)
    world.flush_unsettled()
    newest = world.seqs()[-1]
    world.send_many(VODS, 2)
    snapshot, _ = world.drain()
    settings = dagster_settings.copy_unvalidated(redis_url=world.stores.redis.url)
    job = defs.resolve_job_def("prune_ledger_days")
    result = job.execute_in_process(instance=dagster.instance, resources={"settings": settings})
    (event,) = [event for event in result.all_node_events if event.is_successful_output]
    assert event.step_output_data.metadata["flushes"].value == 3
    assert {marker and marker[:2] for marker in markers(world).values()} == {(newest, 2)}
    report = bulk_upsert(world.stores, snapshot, aggregate(snapshot.readings))
    assert report.notes.unsettled_shards == 0
    world.send("often", 3)
    assert world.flush().notes.sentences() == []
    world.assert_all_persisted()
    assert world.held() == Counter()
