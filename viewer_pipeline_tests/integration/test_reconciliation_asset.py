"""The asset `reconciliation`, in process on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.reconciliation import reconcile_job
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource
from viewer_pipeline.reconcile.compare import CHECKS
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.world import PREFIX, World

NOWHERE = "redis://127.0.0.1:1/0"


def run(redis_url: str, database_url: str, *, repair: bool = False) -> dg.ExecuteInProcessResult:
    """Run the job in this process."""
    config = {"ops": {"reconciliation": {"config": {"repair": repair}}}} if repair else {}
    return defs.resolve_job_def(reconcile_job.name).execute_in_process(
        run_config=config,
        resources={"redis": RedisResource(url=redis_url), "postgres": PostgresResource(url=database_url)},
        raise_on_error=False,
    )


def figures(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the one materialization."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failed(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    """Checks that failed, and what they say."""
    return {c.check_name: c.description for c in result.get_asset_check_evaluations() if not c.passed}


def test_reconciliation_reports_and_repairs_differences(
    dagster_settings: Settings, world: World, redis_url: str, database_url: str
) -> None:
    """Checks fail where differences remain; the metadata has numbers, the first of them, and the path of the rest."""
    world.send_many(5)
    world.flush()
    clean = run(redis_url, database_url)
    assert (clean.success, failed(clean), figures(clean)["differences"]) == (True, {}, 0)
    target = {c.check_name: c.description for c in clean.get_asset_check_evaluations()}["target_equals_totals"]
    assert target == "not compared: TARGET_TABLE is not set"
    world.execute("UPDATE viewer.vod_view_counts SET view_count = 9 WHERE vod_id = 'vod0001'")
    world.client.set(PREFIX + "bad", "abc")
    different = run(redis_url, database_url)
    assert different.success
    assert failed(different) == {"totals_equal_history": "1 difference", "counters_are_counts": "1 difference"}
    metadata = figures(different)
    expected = {
        "differences": 2,
        "repaired": 0,
        "remaining": 2,
        "total_differences": 1,
        "counter_differences": 1,
        "vods": 5,
    }
    assert {name: metadata[name] for name in expected} == expected
    assert [record.data["vod_id"] for record in metadata["first_differences"].records] == ["vod0001", "bad"]
    report = Path(metadata["report"])
    assert report.parent == dagster_settings.viewer_home.absolute() / "reports"
    assert len(report.read_text().splitlines()) == 3
    repaired = run(redis_url, database_url, repair=True)
    assert failed(repaired) == {"counters_are_counts": "1 difference"}
    metadata = figures(repaired)
    assert (metadata["differences"], metadata["repaired"], metadata["remaining"]) == (2, 1, 1)


@pytest.mark.usefixtures("dagster_settings")
def test_servers_that_are_out_of_reach(world: World, database_url: str) -> None:
    """Fail the run, and leave no report behind."""
    world.send_many(1)
    result = run(NOWHERE, database_url)
    assert not result.success


def test_every_check_is_described() -> None:
    """For operators, in the UI."""
    graph = defs.resolve_asset_graph()
    keys = [key for key in graph.asset_check_keys if key.asset_key == dg.AssetKey("reconciliation")]
    assert {key.name for key in keys} == set(CHECKS)
    assert all(graph.get_check_spec(key).description for key in keys)
    assert graph.get(dg.AssetKey("reconciliation")).group_name == "reconciliation"
