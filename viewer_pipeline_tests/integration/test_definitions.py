"""What a person sees in the UI: every definition, by name, as a snapshot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import dagster as dg

from viewer_pipeline.definitions import defs
from viewer_pipeline.reconcile.reconciliation import CHECKS as RECONCILE_CHECKS

CATALOGUE: dict[str, dict[str, Any]] = {
    "redis_counters": {"deps": [], "kinds": {"redis"}, "checks": [], "policy": None},
    "view_counts": {
        "deps": ["redis_counters"],
        "kinds": {"redis", "postgres", "pandas"},
        "checks": ["ledger_equals_frame", "no_drift", "redis_is_settled", "totals_carry_the_flush"],
        "policy": dg.FreshnessPolicy.time_window(timedelta(minutes=10), timedelta(minutes=5)),
    },
    "daily_views": {
        "deps": ["view_counts"],
        "kinds": {"postgres"},
        "checks": ["closed_days_are_complete", "daily_equals_ledger"],
        "policy": dg.FreshnessPolicy.cron("0 1 * * *", timedelta(hours=24)),
    },
    "reconciliation": {
        "deps": [],
        "kinds": {"postgres", "redis"},
        "checks": sorted(RECONCILE_CHECKS),
        "policy": None,
    },
}
TABLES = {"view_counts": "viewer.vod_view_counts", "daily_views": "viewer.daily_views"}
JOBS = {
    "flush_views": "flush",
    "roll_up_days": "daily",
    "prune_ledger_days": "retention",
    "prune_run_history": "retention",
    "prune_rejected_and_parked": "retention",
    "reconcile": "reconciliation",
}
SCHEDULES = {
    "sweep_schedule": ("* * * * *", "flush_views"),
    "refresh_today": ("*/15 * * * *", "roll_up_days"),
    "close_yesterday": ("10 0 * * *", "roll_up_days"),
    "prune_ledger_days_daily": ("20 3 * * *", "prune_ledger_days"),
    "prune_run_history_daily": ("40 3 * * *", "prune_run_history"),
    "prune_rejected_and_parked_daily": ("0 4 * * *", "prune_rejected_and_parked"),
}
SENSORS = ["view_count_updates_sensor", "run_failure"]


def test_the_asset_graph() -> None:
    """Lineage, kinds, group, owner, checks, freshness, and a description that is a sentence."""
    graph, catalogue = defs.resolve_asset_graph(), {}
    for spec in defs.resolve_all_asset_specs():
        checks = sorted(key.name for key in graph.asset_check_keys if key.asset_key == spec.key)
        catalogue[spec.key.to_user_string()] = {
            "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            "kinds": spec.kinds,
            "checks": checks,
            "policy": spec.freshness_policy,
        }
        assert spec.group_name == ("reconciliation" if spec.key.to_user_string() == "reconciliation" else "views")
        assert spec.owners == ["team:viewer-pipeline"]
        assert "." in (spec.description or "")
        assert spec.metadata.get("dagster/table_name") == TABLES.get(spec.key.to_user_string())
    assert catalogue == CATALOGUE


def test_partitions_of_the_assets() -> None:
    """Only days; a range of them is one run."""
    graph = defs.resolve_asset_graph()
    daily = graph.get(dg.AssetKey("daily_views"))
    assert isinstance(daily.partitions_def, dg.DailyPartitionsDefinition)
    assert daily.backfill_policy == dg.BackfillPolicy.single_run()
    assert graph.get(dg.AssetKey("view_counts")).partitions_def is None


def test_jobs_schedules_and_sensors() -> None:
    """Each with a description; all of ours run in one process, and are on by default."""
    for name, kind in JOBS.items():
        job = defs.resolve_job_def(name)
        assert (job.tags["viewer/job"], job.executor_def) == (kind, dg.in_process_executor)
        assert int(job.tags["dagster/max_runtime"]) >= 300
        assert job.description
    schedules = {schedule.name: schedule for schedule in map(defs.resolve_schedule_def, SCHEDULES)}
    assert {name: (schedule.cron_schedule, schedule.job_name) for name, schedule in schedules.items()} == SCHEDULES
    assert {schedule.execution_timezone for schedule in schedules.values()} == {"UTC"}
    statuses = {schedule.default_status for schedule in schedules.values()}
    assert statuses == {dg.DefaultScheduleStatus.RUNNING}
    assert all(defs.resolve_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING for name in SENSORS)
    known = defs.get_repository_def()
    descriptions = {schedule.name: schedule.description for schedule in known.schedule_defs}
    descriptions |= {sensor.name: sensor.description for sensor in known.sensor_defs}
    assert [name for name, text in descriptions.items() if not (text or "").endswith(".")] == []
    assert {job.name for job in known.get_all_jobs()} - {"__ASSET_JOB"} == set(JOBS)
    assert {schedule.name for schedule in known.schedule_defs} == set(SCHEDULES)
    assert {sensor.name for sensor in known.sensor_defs} == set(SENSORS)


SNAPSHOT = """
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value
from viewer_pipeline.definitions import defs
print(serialize_value(RepositorySnap.from_def(defs.get_repository_def())))
"""


def test_definitions_show_no_password() -> None:
    """The code server sends the UI no URL of the settings, only that their resource exists."""
    urls = {
        "DATABASE_URL": "postgresql://viewer:Geheim7@db/views",
        "REDIS_URL": "redis://viewer:Geheim7@redis:6379/0",
        "ALERT_WEBHOOK_URL": "https://hooks.example/Geheim7",
    }
    run = subprocess.run(
        [sys.executable, "-c", SNAPSHOT], env=os.environ | urls, capture_output=True, text=True, check=True
    )
    assert '"name": "settings"' in run.stdout
    assert "read from the environment" in run.stdout
    assert "Geheim7" not in run.stdout


TIME_ZONES = """
import json
from viewer_pipeline.definitions import defs
from viewer_pipeline.orchestration.partitions import DAYS
(daily,) = [spec for spec in defs.resolve_all_asset_specs() if spec.key.to_user_string() == "daily_views"]
zones = {schedule.name: schedule.execution_timezone for schedule in defs.get_repository_def().schedule_defs}
print(json.dumps(zones | {"partitions": DAYS.timezone, "freshness": daily.freshness_policy.timezone}))
"""


def test_days_and_daily_schedules_are_those_of_the_zone() -> None:
    """Intervals stay in UTC: a change of the clocks neither skips nor repeats them."""
    environment = os.environ | {"HISTORY_TIMEZONE": "America/New_York"}
    run = subprocess.run(
        [sys.executable, "-c", TIME_ZONES], env=environment, capture_output=True, text=True, check=True
    )
    daily = {"close_yesterday", "prune_ledger_days_daily", "prune_run_history_daily", "prune_rejected_and_parked_daily"}
    zones = json.loads(run.stdout)
    assert {name for name, zone in zones.items() if zone == "America/New_York"} == {*daily, "partitions", "freshness"}
    assert {zones[name] for name in SCHEDULES if name not in daily} == {"UTC"}
