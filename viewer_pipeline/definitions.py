"""Table of contents: every asset, check, job, sensor, schedule and resource, by name."""

from __future__ import annotations

import dagster as dg

from viewer_pipeline.orchestration.daily_views_asset import daily_views, roll_up_days
from viewer_pipeline.orchestration.failed_run_alerts import run_failure
from viewer_pipeline.orchestration.flush_job import flush_views
from viewer_pipeline.orchestration.flush_ops import IN_MEMORY
from viewer_pipeline.orchestration.flush_sensor import view_count_updates_sensor
from viewer_pipeline.orchestration.loggers import console
from viewer_pipeline.orchestration.reconciliation_asset import reconcile_job, reconciliation
from viewer_pipeline.orchestration.retention_jobs import RETENTION_JOBS
from viewer_pipeline.orchestration.retention_schedules import RETENTION_SCHEDULES
from viewer_pipeline.orchestration.settings_resource import settings_resource
from viewer_pipeline.orchestration.stores_resource import stores_resource
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import close_yesterday, refresh_today, sweep_schedule
from viewer_pipeline.orchestration.traces_resource import traces_resource
from viewer_pipeline.orchestration.view_counts_asset import redis_counters, view_counts

defs = dg.Definitions(
    assets=[redis_counters, view_counts, daily_views, reconciliation],  # the checks come with them
    jobs=[flush_views, roll_up_days, reconcile_job, *RETENTION_JOBS],
    sensors=[view_count_updates_sensor, run_failure],
    schedules=[sweep_schedule, close_yesterday, refresh_today, *RETENTION_SCHEDULES],
    executor=dg.in_process_executor,  # of all jobs: steps pass values in memory
    loggers={"console": console},
    resources={
        "settings": settings_resource,
        "stores": stores_resource,
        "traces": traces_resource,
        IN_MEMORY: dg.mem_io_manager,
    },
)
