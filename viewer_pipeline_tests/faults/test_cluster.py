"""Flushes on a real Redis Cluster: slots migrate, nodes die, fail over, fall back and are emptied meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pytest

from viewer_pipeline.errors import NotDurable
from viewer_pipeline.flush.cluster_store import ClusterStore, as_cluster
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.run_report import RunReport
from viewer_pipeline.flush.verify import verify
from viewer_pipeline.layout import key_slot
from viewer_pipeline.stores import cluster_nodes
from viewer_pipeline.stores.redis_durability_wait import Durability
from viewer_pipeline_tests.support.cluster_world import ClusterWorld
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

VODS = 40


def slot_of(vod_id: str) -> int:
    """Return the slot of a counter."""
    return key_slot(f"vod:views:{vod_id}".encode())


def ids_at(world: ClusterWorld, node: object) -> list[str]:
    """Return the VODs whose counters are at this primary."""
    return [vod_id for vod_id in world.sent if world.cluster.node_of_slot(slot_of(vod_id)) is node]


def flush_until_settled(world: ClusterWorld, runs: int = 3) -> RunReport:
    """Run flushes until nothing is pending."""
    for _ in range(runs):
        report = world.flush()
        if not world.counters():
            break
    return report


def test_flush(cluster_world: ClusterWorld) -> None:
    """Views of counters all over the slots are persisted once, by sweeps and by announcements."""
    world = cluster_world
    world.send_many(VODS)
    world.send("{vod0001}a", 5)
    world.send("{vod0001}b", 6)
    report = world.flush()
    assert report.notes.sentences() == []
    assert [check.status for check in verify(world.stores, report)] == ["healthy"] * 4
    world.assert_all_persisted()
    world.send("vod0003", 2, announce=True)
    world.send("vod0009", 2, announce=True)
    report = world.flush("changed")
    assert report.views == 4
    world.assert_all_persisted()
    assert world.stores.redis.changed_set_size_and_oldest()[0] == 0
    assert world.held() == Counter()


def test_a_committed_flush_is_settled_by_the_next_run(cluster_world: ClusterWorld) -> None:
    """The run that committed it has died."""
    world = cluster_world
    world.send_many(VODS)
    world.flush_unsettled()
    world.send_many(VODS, views=2)
    report = world.flush()
    assert report.notes.settled_before == VODS
    world.assert_all_persisted()


def test_two_runs_read_the_same_counters(cluster_world: ClusterWorld) -> None:
    """One commits first; the other is superseded, drains again and finds what came in since."""
    world = cluster_world
    world.send_many(VODS)
    first, second = world.drain(), world.drain()
    bulk_upsert(world.stores, *first)
    world.send("vod0001", 7)
    report = bulk_upsert(world.stores, *second)
    assert (report.notes.superseded, report.views) == (1, 7)
    world.assert_all_persisted()


def test_a_slot_that_migrates_is_left_to_the_next_run(cluster_world: ClusterWorld) -> None:
    """Half of its keys are at another node: what was not read does not count as zero, and gets no second marker."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    for number in range(4):
        world.send(f"{{vod0001}}{number}", 5)  # by their whole keys in one slot
    world.flush()
    for number in range(4):
        world.send(f"{{vod0001}}{number}", 5)
    slot = slot_of("{vod0001}0")
    source = cluster.node_of_slot(slot)
    migration = cluster.open_slot(slot, next(node for node in cluster.primaries() if node is not source))
    keys = [key for key in migration.remaining_keys() if key.startswith(b"vod:views:")]
    migration.move(keys[:2])
    world.send("vod0002", 1)
    report = world.flush()
    assert report.notes.excluded_shards == 1
    assert report.views == 1
    world.assert_conserved()
    migration.move([key for key in migration.remaining_keys() if b"settled" in key])  # the marker before the rest
    assert world.flush().notes.excluded_shards == 1
    migration.finish()
    assert world.flush().notes.sentences() == []
    world.assert_all_persisted()
    assert world.held() == Counter()


def test_slots_move_between_commit_and_settling(cluster_world: ClusterWorld) -> None:
    """The batches are settled where the slots are then, by the same run."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    snapshot = world.drain()
    source, target = cluster.primaries()[:2]
    for vod_id in ids_at(world, source)[:5]:
        cluster.migrate_slot(slot_of(vod_id), target)
    report = bulk_upsert(world.stores, *snapshot)
    assert report.notes.sentences() == []
    world.assert_all_persisted()


def test_a_failover_between_read_and_settling(cluster_world: ClusterWorld) -> None:
    """The new primary has all, and is settled; the run that had read at the old one continues."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    snapshot = world.drain()
    cluster.failover(cluster.primaries()[0])
    report = bulk_upsert(world.stores, *snapshot)
    assert report.notes.unsettled_shards == 0
    world.assert_all_persisted()


def test_a_dead_node_holds_up_no_other(cluster_world: ClusterWorld) -> None:
    """Its shards are left out, and taken once its replica was promoted. A pass of the sweep is not complete before."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    cluster.wait_until_replicated()
    dead = cluster.primaries()[0]
    there = ids_at(world, dead)
    world.stores.redis.request_sweep("test")
    cluster.kill(dead)
    report = world.flush()
    assert report.views == 2 * (VODS - len(there))
    assert report.notes.excluded_shards
    assert world.stores.redis.sweep_request() is not None
    cluster.wait_for_promotion(dead)
    world.flush()
    world.assert_all_persisted()
    assert world.stores.redis.sweep_request() is None


def test_a_node_dies_before_the_types_of_missing_counters_are_read(
    cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run continues: types are read only to report keys that are no counters."""
    world, cluster, types = cluster_world, cluster_world.cluster, ClusterStore.types
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    dead = cluster.primaries()[1]
    replica = cluster.replica_of(dead)
    gone = next(vod_id for vod_id in ids_at(world, dead))
    world.client.delete(f"vod:views:{gone}")
    world.sent[gone] -= 2
    cluster.wait_until_replicated()

    def die_and_read_types(self: ClusterStore, ids: Any) -> dict[bytes, str]:
        cluster.kill(dead)
        return types(self, ids)

    with monkeypatch.context() as patch:
        patch.setattr(ClusterStore, "types", die_and_read_types)
        report = world.flush("ids", vod_ids=tuple(world.sent))
    assert report.views == 2 * (VODS - 1)
    wait_until(lambda: replica.own_record().primary_id is None, 120, "its replica is promoted")
    flush_until_settled(world)
    world.assert_all_persisted()


def test_a_node_dies_between_commit_and_settling(cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had is left to the next run, and reported. A run waits some seconds for a failover."""
    monkeypatch.setattr(cluster_nodes, "FOLLOW_TRIES", 2)
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    snapshot = world.drain()
    cluster.wait_until_replicated()
    dead = cluster.primaries()[1]
    there = ids_at(world, dead)
    cluster.kill(dead)
    report = bulk_upsert(world.stores, *snapshot)
    assert report.notes.unsettled_shards == len({slot_of(vod_id) for vod_id in there})
    assert verify(world.stores, report)[1].status != "healthy"
    cluster.wait_for_promotion(dead)
    assert world.flush().notes.settled_before == report.notes.unsettled_shards
    world.assert_all_persisted()


def test_nothing_is_committed_that_no_replica_has(cluster_world: ClusterWorld) -> None:
    """With REDIS_WAIT_REPLICAS, each node that was read from must acknowledge."""
    world, cluster = cluster_world, cluster_world.cluster
    world.stores.redis.durability = Durability(replicas=1, timeout_ms=200)
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS)
    primary = cluster.primaries()[2]
    replica = cluster.replica_of(primary)
    replica.pause()
    text = f"REDIS_WAIT_REPLICAS=1: 0 of 1 replicas acknowledged at 127.0.0.1:{primary.port} within 200 ms"
    with pytest.raises(NotDurable, match=text):
        world.drain()
    replica.resume()
    world.stores.redis.durability = Durability(replicas=1, timeout_ms=20_000)
    world.flush()
    world.assert_all_persisted()


def test_a_connection_that_broke_before_its_replicas_acknowledged(
    cluster_world: ClusterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether what was read over it will last: its shards are left to the next run."""
    world = cluster_world
    world.flush()  # so all markers are there: else their making is waited for, too, on the connection that breaks
    world.stores.redis.durability = Durability(replicas=1, timeout_ms=20_000)
    world.send_many(VODS)
    victim = world.cluster.primaries()[1]
    there = ids_at(world, victim)
    wait = ClusterStore.wait_until_shards_durable

    def break_first(store: ClusterStore, *arguments: object) -> dict[int, str]:
        victim.client.client_kill_filter(_type="normal")
        return wait(store, *arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(ClusterStore, "wait_until_shards_durable", break_first)
    report = world.flush()
    assert report.views == 3 * (VODS - len(there))
    monkeypatch.undo()
    world.flush()
    world.assert_all_persisted()


def test_a_node_that_was_emptied(cluster_world: ClusterWorld) -> None:
    """Its markers are made again with `hold`: new views of VODs that were counted are held until a sweep's end."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    primary = cluster.primaries()[0]
    there = ids_at(world, primary)
    cluster.empty(primary)
    world.send_many(VODS, views=2)
    report = world.flush()
    assert report.notes.redis_emptied
    assert world.held() == Counter(dict.fromkeys(there, 2))
    world.assert_all_persisted()
    world.flush()  # a sweep that began after that
    world.send_many(VODS, views=1)
    world.flush()
    assert world.held() == Counter(dict.fromkeys(there, 2))
    world.assert_all_persisted()


def test_a_node_that_was_emptied_between_commit_and_settling(cluster_world: ClusterWorld) -> None:
    """The batch is skipped there: nothing is subtracted from counters that never had it."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.flush()
    world.send_many(VODS, views=2)
    world.flush_unsettled()
    primary = cluster.primaries()[0]
    cluster.empty(primary)
    world.send_many(VODS, views=4)
    flush_until_settled(world)
    world.assert_all_persisted()


def test_a_node_that_returns_from_an_old_copy(cluster_world: ClusterWorld) -> None:
    """Its markers are behind the ledger, as those of a replica that was promoted too early."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.drain()
    primary = cluster.primaries()[0]
    copy = cluster.copy_data(primary)
    world.flush()
    world.send_many(VODS, views=2)
    there = ids_at(world, primary)
    cluster.kill(primary)
    cluster.restart(primary, copy=copy)
    world.sent.subtract(dict.fromkeys(there, 2))  # what came in after the copy is lost
    flush_until_settled(world)
    world.assert_all_persisted()
    assert world.held() == Counter()


def test_numbers_are_not_given_again_after_postgres_was_rolled_back(cluster_world: ClusterWorld) -> None:
    """Although the run takes nothing from the shards whose markers are ahead of the ledger."""
    world = cluster_world
    world.send("vod0001", 3)
    world.flush()
    before = as_cluster(world.stores.redis)
    for _ in range(3):
        world.send("vod0002", 1)
        world.flush()
    lost = world.seqs()[-3:]
    with psycopg.connect(world.stores.ledger.url) as connection:  # as a backup restored from before the last three
        connection.execute("DELETE FROM viewer.flush_batch WHERE seq >= %s", [lost[0]])
        connection.execute("DELETE FROM viewer.flush WHERE seq >= %s", [lost[0]])
        connection.execute("UPDATE viewer.vod_view_counts SET view_count = view_count - 3 WHERE vod_id = 'vod0002'")
    world.client.hset(before.names.marker, "prepared", "another timeline")  # PostgreSQL was restarted for that
    world.sent["vod0002"] -= 3
    world.send("vod0001", 5)
    world.flush()
    assert world.seqs()[-1] > lost[-1]
    world.send("vod0002", 2)
    world.flush()
    world.assert_all_persisted()


TIMELINE = "CREATE OR REPLACE FUNCTION viewer.timeline() RETURNS text LANGUAGE sql AS $$ SELECT 'another'::text $$"


def lose_last_flush(world: ClusterWorld) -> None:
    """Let PostgreSQL be as if a standby had taken over that lacked the last flush, of `vod0001` alone."""
    ((seq, views),) = world.rows("SELECT seq, views FROM viewer.flush ORDER BY seq DESC LIMIT 1")
    world.execute("DELETE FROM viewer.flush_batch WHERE seq = %s", seq)
    world.execute("DELETE FROM viewer.flush WHERE seq = %s", seq)
    world.execute("UPDATE viewer.vod_view_counts SET view_count = view_count - %s WHERE vod_id = 'vod0001'", views)
    world.execute(TIMELINE)


def test_postgres_loses_a_flush_before_it_is_settled(cluster_world: ClusterWorld) -> None:
    """Another run begins and takes the number. The first one settles nothing, and the views are counted once."""
    world = cluster_world
    world.send_many(3)
    world.flush()
    world.send("vod0001", 5)
    first = world.flush_unsettled()
    lose_last_flush(world)
    world.send("vod0002", 7)
    second = world.drain()
    late = as_cluster(world.stores.redis)
    markers = first.snapshot.markers  # type: ignore[attr-defined]  # of a cluster
    result = late.settle_shards(markers, first.committed[0].flush.batches)
    assert result.refused.keys() == markers.keys() & {batch.shard for batch in first.committed[0].flush.batches}
    bulk_upsert(world.stores, *second)
    world.flush()
    world.assert_all_persisted()


def test_postgres_loses_commits_before_this_one(cluster_world: ClusterWorld) -> None:
    """The run that had read before that commits nothing, and drains again."""
    world = cluster_world
    world.send_many(3)
    world.flush()
    world.send("vod0001", 5)
    snapshot = world.drain()
    world.execute(TIMELINE)
    report = bulk_upsert(world.stores, *snapshot)
    assert report.notes.superseded == 1
    world.assert_all_persisted()


def test_retention_has_deleted_flushes_after_the_marker(cluster_world: ClusterWorld) -> None:
    """A node returns from a copy that is older than the ledger: what it has may have been counted, and is held."""
    world, cluster = cluster_world, cluster_world.cluster
    world.send_many(VODS)
    world.drain()
    primary = cluster.primaries()[0]
    copy = cluster.copy_data(primary)
    for _ in range(2):
        world.flush()
        world.send_many(VODS)
    there = ids_at(world, primary)
    world.flush()
    world.execute(
        "INSERT INTO viewer.pruned_flushes (mode, stream, flushes, counters, views, last_seq, last_committed_at)"
        " SELECT 'sweep', 0, count(*), sum(counters), sum(views), max(seq), max(committed_at)"
        " FROM viewer.flush WHERE seq < %s",
        world.seqs()[-1],
    )
    world.execute("DELETE FROM viewer.flush_batch WHERE seq < %s", world.seqs()[-1])
    world.execute("DELETE FROM viewer.flush WHERE seq < %s", world.seqs()[-1])
    cluster.kill(primary)
    cluster.restart(primary, copy=copy)
    flush_until_settled(world)
    assert world.counters() == {}
    assert world.totals() == dict(world.sent)
    assert set(world.held()) <= set(there)
    assert world.held()


@pytest.mark.parametrize("without_marker", ["hold", "count"])
def test_a_ledger_of_a_single_redis_moves_to_a_cluster(
    cluster_world: ClusterWorld, world: World, without_marker: str
) -> None:
    """Its markers are new where the ledger has flushes: views of known VODs are held, unless a setting prevents it."""
    world.send_many(5)
    world.flush()
    moved = cluster_world
    moved.sent = world.sent
    moved.send_many(6, views=2)
    moved.flush(redis_without_marker=without_marker)
    assert moved.held() == Counter(dict.fromkeys(list(world.sent)[:5], 2) if without_marker == "hold" else {})
    moved.assert_all_persisted()
    moved.flush()  # a sweep that began with all markers
    moved.send_many(6)
    moved.flush()
    assert moved.held().total() == (10 if without_marker == "hold" else 0)
    moved.assert_all_persisted()
