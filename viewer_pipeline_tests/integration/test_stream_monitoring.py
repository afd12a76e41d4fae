"""/health, status, the status page and metrics of a pipeline with several streams."""

from __future__ import annotations

import time
from contextlib import closing
from unittest.mock import patch

import pytest

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.flush.aggregate import aggregate
from viewer_pipeline.flush.commit import bulk_upsert
from viewer_pipeline.flush.drain import drain
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.recorded_settings import (
    read_recorded_settings,
    record_flush_streams,
    record_settings_in_redis,
)
from viewer_pipeline.flush.settle import Settler
from viewer_pipeline.monitoring.metrics import pending_samples
from viewer_pipeline.monitoring.pending_views import read_pending_views
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.monitoring.status import PipelineStatus, read_status
from viewer_pipeline.monitoring.status_page.bar_chart import format_flush_number
from viewer_pipeline.monitoring.status_report import render_status
from viewer_pipeline.settings import Settings
from viewer_pipeline.streams import NUMBERS
from viewer_pipeline_tests.support.streams import cut, flush_all, world_of_each_kind
from viewer_pipeline_tests.support.world import World

__all__ = ["world_of_each_kind"]

VODS = 30
WIDE = 10_000


@pytest.fixture
def settings(dagster_settings: Settings, world: World) -> Settings:
    """Settings that name the servers of the world, and two streams."""
    return dagster_settings.copy_unvalidated(redis_url=world.stores.redis.url, flush_streams=2)


def settling(settings: Settings) -> dict[str, CheckResult]:
    """Return the checks of markers and ledger."""
    with closing(HealthProbes(settings, seconds=5)) as probes:
        return {check.name: check for check in probes.check_settling()}


def lines(status: PipelineStatus) -> dict[str, str]:
    """Return the lines of the printed status by their first word."""
    return {line.split()[0]: line for line in render_status(status, WIDE).splitlines() if line.split()}


def flush_second_unsettled(world: World) -> None:
    """Flush the second stream, but leave its views in Redis."""
    second = world.stores.of_each_stream()[1]
    with patch.object(Settler, "add", lambda *_: None):
        snapshot = drain(second, world.request())
        bulk_upsert(second, snapshot, aggregate(snapshot.readings))


def test_settling_is_that_of_all_streams(world: World, settings: Settings) -> None:
    """Flushes that are not settled are summed up, and the worst stream is named."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    checks = settling(settings)
    assert {check.status for check in checks.values()} == {"healthy"}
    assert checks["streams"].message == "FLUSH_STREAMS=2, as in the ledger"
    parts = checks["marker"].details["streams"]
    assert [(part["stream"], part["part"], part["unsettled_flushes"]) for part in parts] == [
        (1, "1of2", 0),
        (2, "2of2", 0),
    ]
    assert all(part["last_flush"] == part["marker_seq"] for part in parts)
    world.send_many(VODS)
    flush_second_unsettled(world)
    world.execute("UPDATE viewer.flush SET committed_at = now() - interval '2 minutes'")
    checks = settling(settings)
    assert checks["unsettled"].status == "degraded"
    assert "the oldest in stream 2of2 for 2 min" in checks["unsettled"].message
    parts = checks["marker"].details["streams"]
    assert [part["unsettled_flushes"] > 0 for part in parts] == [False, True]
    assert sum(part["unsettled_flushes"] for part in parts) == checks["unsettled"].details["unsettled_flushes"]


def test_a_marker_of_one_stream_is_missing(world: World, settings: Settings) -> None:
    """The message names the stream; the last flush of all is the one that was committed last."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    world.client.delete(world.stores.of_each_stream()[1].redis.names.marker)
    checks = settling(settings)
    assert checks["marker"].status == "degraded"
    assert checks["marker"].message.startswith(
        "stream 2of2: Redis was emptied or replaced: the ledger ends at flush 2/"
    )
    newest = world.rows("SELECT seq FROM viewer.flush ORDER BY committed_at DESC LIMIT 1")
    assert [(checks["last_flush"].details["last_flush"],)] == newest


def test_another_number_of_streams_and_a_change_that_was_interrupted(world: World, settings: Settings) -> None:
    """Both refuse runs, so they are unhealthy, with the command that helps."""
    assert settling(settings)["streams"].message == "FLUSH_STREAMS=2, and the ledger has 1 stream: runs are refused"
    cut(world, 2)
    check = settling(settings.copy_unvalidated(flush_streams=1))["streams"]
    assert (check.status, check.message) == (
        "unhealthy",
        "FLUSH_STREAMS=1, and the ledger has 2 streams: runs are refused",
    )
    assert "streams apply" in check.remedy
    world.send_many(VODS)
    flush_all(world)
    world.execute("UPDATE viewer.stream SET state = 'closing' WHERE state = 'active'")
    checks = settling(settings)
    assert checks["streams"].status == "unhealthy"
    assert "was interrupted" in checks["streams"].message
    assert checks["marker"].passed


def test_pending_views_of_all_streams(world: World, settings: Settings) -> None:
    """Sums, and the oldest announcement of any; its stream is named."""
    cut(world, 2)
    world.send_many(VODS, 2)
    parts = world.stores.redis.of_each_part()
    assert world.stores.redis.announce([f"vod{number:04d}" for number in range(VODS)]) == VODS
    with closing(HealthProbes(settings, seconds=5)) as probes:
        pending = read_pending_views(probes.store)
        assert (pending.vods, pending.read, pending.views, pending.is_lower_bound) == (VODS, VODS, 2 * VODS, False)
        assert pending.streams == {part.layout.stream.name: part.count_announced(None) for part in parts}
        assert min(pending.streams.values()) > 0
        (first,) = next(iter(parts[1].changed_ids_oldest_first(1)))
        world.client.zadd(parts[1].names.changed, {first: (time.time() - 365) * 1000})
        (check,) = probes.check_freshness()
    assert check.status == "unhealthy"
    assert check.message.startswith(f"{VODS} VODs pending, the oldest in stream 2of2 for 6 min")
    with closing(HealthProbes(settings, seconds=5)) as probes:
        samples = pending_samples(read_pending_views(probes.store))
    assert samples["viewer_pending_views"] == {(): 2 * VODS}
    assert samples["viewer_pending_counters"] == {(): VODS}
    assert samples["viewer_oldest_pending_seconds"][()] == pytest.approx(365, abs=60)


def test_status_of_several_streams(world: World, settings: Settings) -> None:
    """JSON has a list of them; the text names those that are not settled, and numbers with their stream."""
    cut(world, 2)
    world.send_many(VODS)
    flush_all(world)
    status = read_status(settings)
    report = status.to_dict()
    assert [(part["stream"], part["part"], part["settled"]) for part in report["streams"]] == [
        (1, "1of2", True),
        (2, "2of2", True),
    ]
    assert report["settled"] is True
    assert report["marker"] is None
    last = report["last_flush"]
    assert last in world.seqs()
    number = f"{last // NUMBERS}/{last % NUMBERS}"
    assert lines(status)["marker"].endswith(f"one for each of 2 streams; the ledger's last flush is {number}")
    assert number in lines(status)
    world.stores.redis.announce(["vod0001"])
    flush_second_unsettled(world)
    world.send_many(VODS)
    flush_second_unsettled(world)
    status = read_status(settings)
    assert status.to_dict()["settled"] is False
    assert [part["settled"] for part in status.to_dict()["streams"]] == [True, False]
    assert [part["pending_vods"] for part in status.to_dict()["streams"]].count(0) == 1
    assert lines(status)["marker"].endswith("(not settled in 2of2)")
    assert "; 1 of them in stream " in lines(status)["pending"]


def test_status_of_one_stream_that_followed_several(world: World, settings: Settings) -> None:
    """As that of one that was always alone; only the numbers have the stream."""
    cut(world, 2)
    cut(world, 1)
    world.send_many(VODS)
    flush_all(world)
    status = read_status(settings.copy_unvalidated(flush_streams=1))
    report = status.to_dict()
    assert "streams" not in report
    assert (report["settled"], report["marker"]["seq"]) == (True, report["last_flush"])
    assert report["last_flush"] // NUMBERS == 3
    assert "flush is 3/" in lines(status)["marker"]
    assert "stall" not in render_status(status, WIDE)
    assert status.checks["streams"].passed
    assert [format_flush_number(1234), format_flush_number(3 * NUMBERS + 1234)] == ["1,234", "3/1,234"]


def test_flush_streams_is_recorded(world: World, settings: Settings) -> None:
    """A program without it is reported; after `streams apply` the record has the new number."""
    without = settings.copy_unvalidated(flush_streams=1)
    store = open_store(world.client, settings) if not world.stores.redis.layout.cluster else world.stores.redis
    assert record_settings_in_redis(store, settings) == {}
    with closing(HealthProbes(without, seconds=5)) as probes:
        (check,) = probes.check_lost_settings()
    assert check.status == "degraded"
    assert check.message.startswith("FLUSH_STREAMS is 1, and was 2 before: VODs are announced where no stream looks")
    record_flush_streams(store, without)
    assert "FLUSH_STREAMS" not in read_recorded_settings(store)
    record_flush_streams(store, settings)
    assert read_recorded_settings(store)["FLUSH_STREAMS"] == "2"
