"""Every rejected input is counted once, by source and reason, and shown where people look."""

from __future__ import annotations

from collections import Counter

from viewer_pipeline.cli.in_process_runs import run_flush
from viewer_pipeline.flush.rejected_counts import (
    RejectedCount,
    RejectedSegment,
    count_rejected_messages,
    describe_rejected,
    read_rejected_summary,
    report_newly_rejected,
)
from viewer_pipeline.monitoring.status import read_status
from viewer_pipeline.orchestration.flush_ops import FlushMode
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

NOT_JSON = RejectedCount("message", "not JSON", 123)


def counts(world: World) -> list[RejectedCount]:
    """Return the numbers of rejected inputs."""
    with world.stores.ledger.connect() as connection:
        return read_rejected_summary(connection).counts


def publish_123(world: World) -> None:
    """Publish the same invalid message 100 times, and 23 others."""
    for number in range(123):
        world.client.publish(CHANNEL, "no json" if number < 100 else f"no json {number}")


def test_descriptions() -> None:
    """A number stands at each reason only if there are several; messages come first."""
    negative, object_expected = (
        RejectedCount("counter", "value is negative", 1),
        RejectedCount("message", "no object", 3),
    )
    assert describe_rejected([]) == "none"
    assert describe_rejected([negative]) == "1 counter (value is negative)"
    texts = "126 messages (not JSON: 123, no object: 3) and 1 counter (value is negative)"
    assert describe_rejected([NOT_JSON, object_expected, negative]) == texts


def test_every_rejected_message_counts(dagster: DagsterWorld, dagster_settings: Settings, world: World) -> None:
    """In `status`, in the metadata and the notes of the next run, and no more in the run after it; examples are few."""
    with SubscriberThread(dagster_settings):
        publish_123(world)
        wait_until(lambda: counts(world) == [NOT_JSON], 30, "all are counted")
    status = read_status(dagster_settings)
    assert (status.to_dict()["rejected"], status.to_dict()["rejected_by_reason"]) == (123, {"not JSON": 123})
    assert status.checks["rejected"].status == "degraded"
    assert status.checks["rejected"].message.startswith("123 messages (not JSON); the last one ")
    runs = [run_flush(dagster.instance, dagster_settings, FlushMode.sweep, trigger="test").stats for _ in range(2)]
    assert [run["rejected"] for run in runs] == [123, 0]
    assert [run["notes"] for run in runs] == [
        "rejected since the previous run: 123 messages (not JSON)",
        "nothing out of the ordinary",
    ]
    assert len(world.rejected()) == 24


def test_messages_count_once_with_several_workers(dagster_settings: Settings, world: World) -> None:
    """Each receives all. One takes over from another: what that one has counted is not counted again, the rest is."""
    with SubscriberThread(dagster_settings) as left, SubscriberThread(dagster_settings) as right:
        wait_until(lambda: {left.state, right.state} == {"listening", "standby"}, 30, "one folds")
        first, second = sorted((left, right), key=lambda worker: worker.state)
        publish_123(world)
        wait_until(lambda: counts(world) == [NOT_JSON], 30, "the holder counts them")
        first.stop()
        wait_until(lambda: second.state == "listening", 30, "the other takes over")
        publish_123(world)
        wait_until(lambda: counts(world) == [NOT_JSON._replace(inputs=246)], 30, "the other counts")
    assert counts(world) == [NOT_JSON._replace(inputs=246)]


def test_counting_is_safe_to_repeat(world: World) -> None:
    """A reply was lost, or two workers count the same segments; another key space has numbers of its own."""
    segments = [RejectedSegment("cuts", number, Counter({"not JSON": 2, "not UTF-8": number})) for number in (4, 5)]
    with world.stores.ledger.connect() as connection:
        count_rejected_messages(connection, segments)
        count_rejected_messages(connection, segments)
        count_rejected_messages(connection, [*segments, RejectedSegment("cuts", 6, Counter({"not JSON": 1}))])
        count_rejected_messages(connection, [RejectedSegment("other", 1, Counter({"not JSON": 1}))])
    assert counts(world) == [RejectedCount("message", "not UTF-8", 9), RejectedCount("message", "not JSON", 6)]


def test_each_rejected_counter_counts_once(world: World) -> None:
    """However many sweeps find it."""
    world.client.mset({PREFIX + "x": "abc", PREFIX + "y": "def", PREFIX + "z": "-1"})
    world.flush()
    world.flush()
    assert counts(world) == [
        RejectedCount("counter", "value is not an integer", 2),
        RejectedCount("counter", "value is negative", 1),
    ]


def test_each_rejected_input_is_reported_by_one_run(world: World) -> None:
    """A step of a run that is tried again reports the same."""
    world.client.mset({PREFIX + "x": "abc"})
    world.flush()
    with world.stores.ledger.connect() as connection:
        expected = [RejectedCount("counter", "value is not an integer", 1)]
        assert report_newly_rejected(connection, "a") == report_newly_rejected(connection, "a") == expected
        assert report_newly_rejected(connection, "b") == []
        world.client.mset({PREFIX + "y": "abc"})
        world.flush()
        assert report_newly_rejected(connection, "c") == expected


def test_messages_wait_while_postgres_is_blocked(dagster_settings: Settings, world: World) -> None:
    """Those that were rejected meanwhile are kept; and those since the last cut are counted at a stop."""
    ledger = world.stores.ledger
    with SubscriberThread(dagster_settings) as worker, ledger.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE viewer.rejected_count")
        publish_123(world)
        wait_until(lambda: worker.stats.rejected["not JSON"] == 123, 30, "all are received")
    assert counts(world) == [NOT_JSON]
