"""What a materialization of `view_counts` reports, and in which order Dagster's UI shows it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import FlushMode, flush_run_config
from viewer_pipeline.orchestration.views_per_hour_chart import INLINE_CHARACTERS
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.ledger_world import ONE, History
from viewer_pipeline_tests.support.world import PREFIX, World

Run = Callable[[], dict[str, Any]]


@pytest.fixture
def settings(redis_url: str, database_url: str) -> Settings:
    """The servers of this test."""
    return Settings(redis_url=redis_url, database_url=database_url)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster history of its own."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(instance: dg.DagsterInstance, settings: Settings, mode: FlushMode = FlushMode.sweep) -> dict[str, Any]:
    """Run the flush job in this process; return the metadata of its materialization."""
    job, resources = defs.resolve_job_def(flush_views.name), {"settings": settings}
    result = job.execute_in_process(run_config=flush_run_config(mode), instance=instance, resources=resources)
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def plots(metadata: dict[str, Any]) -> list[str]:
    """Return the names of the numbers in the order in which the UI plots them."""
    return sorted(name for name, value in metadata.items() if type(value) in (int, float) and name != "taken_at")


def test_plots_are_in_the_order_of_their_use(instance: dg.DagsterInstance, settings: Settings, world: World) -> None:
    """Views, counters, lag, and what is pending before the times of the steps; the UI sorts by name."""
    world.send("a", 5)
    run(instance, settings)
    steps = ["seconds_aggregate", "seconds_drain", "seconds_settle", "seconds_upsert", "seconds_verify"]
    views = ["added_views", "added_views_per_minute", "counters"]
    assert plots(run(instance, settings)) == [
        *views,
        "lag_seconds",
        "pending_vods",
        *steps,
        "total_views",
        "total_vods",
    ]


def test_numbers_are_rounded(instance: dg.DagsterInstance, settings: Settings, world: World) -> None:
    """Rates and percentages to one decimal place, seconds to three; details fit where the UI shows them at once."""
    run(instance, settings)
    settings = settings.copy_unvalidated(run_max_counters=7)
    world.send_many(200)
    metadata = run(instance, settings)
    details = metadata["details"]
    assert details["scanned_percent"] > 0
    for name, value in {**metadata, **details}.items():
        if type(value) is float and name != "taken_at":
            assert value == round(value, 3 if "seconds" in name else 1), name
    assert len(json.dumps(details)) < INLINE_CHARACTERS


def test_rate_of_a_sweep_is_since_the_flush_before(
    instance: dg.DagsterInstance, settings: Settings, world: World
) -> None:
    """Since it had read its counters; unknown for the first. A repair is no flush."""
    world.send("a", 1)
    first = run(instance, settings)
    assert "added_views_per_minute" not in first
    History(world).flush(datetime.now(UTC), {"a": 1}, mode="reconcile")
    world.send("a", 500)
    second = run(instance, settings)
    minutes = (second["taken_at"] - first["taken_at"]) / 60
    assert second["added_views_per_minute"] == pytest.approx(500 / minutes, rel=0.01)


@pytest.mark.parametrize(("waited", "minutes"), [(1, 0.5), (240, 4)])
def test_rate_after_a_pause(
    instance: dg.DagsterInstance, settings: Settings, world: World, waited: float, minutes: float
) -> None:
    """In the time that the oldest announced view has waited, or an interval of the sensor; not in that of the pause."""
    History(world).flush(datetime.now(UTC) - ONE, {"a": 1})
    world.client.set(PREFIX + "a", 500)
    world.client.zadd("viewer:changed", {"a": 1000 * (world.stores.redis.now().timestamp() - waited)})
    metadata = run(instance, settings, FlushMode.changed)
    assert metadata["added_views_per_minute"] == pytest.approx(500 / minutes, rel=0.1)


def test_totals_after_a_rollup(instance: dg.DagsterInstance, settings: Settings, world: World) -> None:
    """Of the days that are rolled up, with the flushes since; without what repairs adjusted."""
    world.send("a", 5)
    run(instance, settings)
    today = datetime.now(UTC).date()
    History(world).roll_up(today, today + ONE)
    world.send("a", 2)
    world.send("b", 1)
    metadata = run(instance, settings)
    assert (metadata["total_views"], metadata["total_vods"]) == (8, 2)
