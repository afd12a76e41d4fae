"""Freshness of `view_counts`, as Dagster's daemon evaluates it: quiet nights are fresh, what is stuck is stale."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import redis
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import TimeWindowFreshnessPolicyEvaluator
from dagster._core.loader import LoadingContextForTest

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import ViewerPipelineError
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_sensor import NOTHING, view_count_updates_sensor
from viewer_pipeline.orchestration.materializations import freshness_policy
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.world import World

KEY = dg.AssetKey("view_counts")
HOUR = 3600
NOWHERE = "redis://127.0.0.1:1/0"


class Night:
    """The sensor and the freshness of the asset, at times that the test chooses."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance, self.settings, self.now = instance, settings, time.time()
        clock = "dagster._core.instance.methods.event_methods.get_current_timestamp"
        evaluator = "dagster._core.definitions.freshness_evaluator.get_current_timestamp"
        for name in (clock, evaluator):
            monkeypatch.setattr(name, lambda: self.now)
        ours = SimpleNamespace(time=lambda: self.now)
        monkeypatch.setattr("viewer_pipeline.orchestration.materializations.time", ours)

    def flush(self) -> None:
        """Run the flush job."""
        job = defs.resolve_job_def(flush_views.name)
        job.execute_in_process(instance=self.instance, resources={"settings": self.settings})
        self.now = time.time()  # its events have the real time

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        """Evaluate the sensor, without its scan of the keys."""
        with dg.build_sensor_context(self.instance, resources={"settings": self.settings}) as context:
            result = view_count_updates_sensor(context)
        assert isinstance(result, dg.RunRequest | dg.SkipReason)
        return result

    def state(self) -> str:
        """Evaluate the freshness of the asset."""
        node: Any = defs.resolve_asset_graph().get(KEY)
        context = LoadingContextForTest(self.instance)
        return asyncio.run(TimeWindowFreshnessPolicyEvaluator().evaluate_freshness(context, node)).value

    def materializations(self) -> list[dict[str, Any]]:
        """Return the metadata of all materializations, newest first."""
        records = self.instance.fetch_materializations(KEY, limit=1000).records
        metadata = [record.asset_materialization.metadata for record in records if record.asset_materialization]
        return [{name: value.value for name, value in values.items()} for values in metadata]


@pytest.fixture
def night(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    """A Dagster history of its own, and the servers of this test."""
    settings = Settings(redis_url=redis_url, database_url=database_url, sensor_scan_max_keys=0)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Night(instance, settings, monkeypatch)


def test_a_quiet_night_is_fresh(night: Night, world: World) -> None:
    """Nothing is pending for an hour, and no run is launched: the sensor reports that, not at every tick."""
    world.send("a", 5)
    night.flush()
    for _ in range(0, HOUR, 30):
        night.now += 30
        assert night.tick() == dg.SkipReason(NOTHING)
        assert night.state() == FreshnessState.PASS
    *reports, flush = night.materializations()
    assert len(reports) == HOUR / 150
    latest = reports[0]
    assert (latest["added_views"], latest["added_views_per_minute"], latest["pending_vods"]) == (0, 0, 0)
    assert (latest["total_views"], latest["total_vods"]) == (flush["total_views"], flush["total_vods"]) == (5, 1)


def test_after_the_clock_was_set_back_what_is_stuck_is_stale(night: Night) -> None:
    """A report of the time before would make the asset fresh until the clock reaches that time again."""
    night.tick()
    night.now -= HOUR
    for _ in range(2):
        night.tick()
    assert len(night.materializations()) == 2
    night.now += 700
    assert night.state() == FreshnessState.FAIL


def test_a_new_installation_is_fresh(night: Night) -> None:
    """From the first tick on, before any view was sent."""
    assert night.state() == FreshnessState.UNKNOWN
    night.tick()
    assert night.state() == FreshnessState.PASS


@pytest.mark.parametrize("fault", ["runs fail", "Redis is down", "the sensor is stopped"])
def test_what_is_stuck_is_stale_within_minutes(night: Night, client: redis.Redis, fault: str) -> None:
    """Views wait and no run succeeds, or the sensor does not find out."""
    night.tick()
    if fault == "runs fail":
        client.zadd("viewer:changed", {"a": 1})
    states = []
    for _ in range(22):
        if fault == "runs fail":
            assert isinstance(night.tick(), dg.RunRequest)
        elif fault == "Redis is down":
            night.settings = night.settings.copy_unvalidated(redis_url=NOWHERE)
            with pytest.raises(ViewerPipelineError):
                night.tick()
        states.append(night.state())
        night.now += 30
    assert states == [FreshnessState.PASS] * 10 + [FreshnessState.WARN] * 10 + [FreshnessState.FAIL] * 2


@pytest.mark.parametrize(
    ("settings", "warn"),
    [
        (Settings(), 300),
        (Settings(batch_interval_ms=3_600_000), 36_000),
        (Settings(freshness_limit_ms=1), 120),
        (Settings(batch_interval_ms=100_000, freshness_limit_ms=1), 400),
    ],
)
def test_the_policy_follows_the_settings(settings: Settings, warn: int) -> None:
    """The sensor ticks several times before it warns, and Dagster takes it."""
    assert freshness_policy(settings) == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(seconds=2 * warn), warn_window=timedelta(seconds=warn)
    )
