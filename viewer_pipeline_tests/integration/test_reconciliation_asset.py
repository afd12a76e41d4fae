"""The asset `reconciliation`, in process on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.reconciliation_asset import reconcile_job
from viewer_pipeline.reconcile.reconciliation import CHECKS
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.world import PREFIX, World

NOWHERE = "redis://127.0.0.1:1/0"


def run(settings: Settings, *, repair: bool = False) -> dg.ExecuteInProcessResult:
    """Run the job in this process."""
    config = {"ops": {"reconciliation": {"config": {"repair": repair}}}} if repair else {}
    return defs.resolve_job_def(reconcile_job.name).execute_in_process(
        run_config=config,
        resources={"settings": settings},
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the one materialization."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failed(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    """Return the message of each failed check."""
    return {c.check_name: c.description for c in result.get_asset_check_evaluations() if not c.passed}


def test_reconciliation_reports_and_repairs_differences(dagster_settings: Settings, world: World) -> None:
    """Checks fail where differences remain; the metadata has numbers, the first of them, and the path of the rest."""
    world.send_many(5)
    world.flush()
    clean = run(dagster_settings)
    assert (clean.success, failed(clean), metadata_of(clean)["differences"]) == (True, {}, 0)
    target = {c.check_name: c.description for c in clean.get_asset_check_evaluations()}["target_equals_totals"]
    assert target == "not compared: TARGET_TABLE is not set"
    world.execute("UPDATE viewer.vod_view_counts SET view_count = 9 WHERE vod_id = 'vod0001'")
    world.client.set(PREFIX + "bad", "abc")
    different = run(dagster_settings)
    assert different.success
    assert failed(different) == {"totals_equal_history": "1 difference", "counters_are_counts": "1 difference"}
    metadata = metadata_of(different)
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
    repaired = run(dagster_settings, repair=True)
    assert failed(repaired) == {"counters_are_counts": "1 difference"}
    metadata = metadata_of(repaired)
    assert (metadata["differences"], metadata["repaired"], metadata["remaining"]) == (2, 1, 1)


def test_servers_that_are_out_of_reach(dagster_settings: Settings, world: World) -> None:
    """Fail the run, and leave no report behind."""
    world.send_many(1)
    result = run(dagster_settings.copy_unvalidated(redis_url=NOWHERE))
    assert not result.success


def test_every_check_has_a_description() -> None:
    """For operators, in the UI."""
    graph = defs.resolve_asset_graph()
    keys = [key for key in graph.asset_check_keys if key.asset_key == dg.AssetKey("reconciliation")]
    assert {key.name for key in keys} == set(CHECKS)
    assert all(graph.get_check_spec(key).description for key in keys)
    assert graph.get(dg.AssetKey("reconciliation")).group_name == "reconciliation"
