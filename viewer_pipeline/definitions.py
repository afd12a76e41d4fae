"""Table of contents: every asset, check, job, sensor, schedule and resource, by name."""

from __future__ import annotations

import dagster as dg

from viewer_pipeline.orchestration.alerts import run_failure
from viewer_pipeline.orchestration.assets import redis_counters, view_counts
from viewer_pipeline.orchestration.daily import daily_views, roll_up_days
from viewer_pipeline.orchestration.jobs import flush_views
from viewer_pipeline.orchestration.loggers import console
from viewer_pipeline.orchestration.ops import IN_MEMORY
from viewer_pipeline.orchestration.reconciliation import reconcile_job, reconciliation
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource
from viewer_pipeline.orchestration.retention import RETENTION_JOBS
from viewer_pipeline.orchestration.retention_schedules import RETENTION_SCHEDULES
from viewer_pipeline.orchestration.schedules import close_yesterday, refresh_today, sweep_schedule
from viewer_pipeline.orchestration.sensors import view_count_updates_sensor
from viewer_pipeline.settings import load_settings

settings = load_settings()

defs = dg.Definitions(
    assets=[redis_counters, view_counts, daily_views, reconciliation],  # the checks come with them
    jobs=[flush_views, roll_up_days, reconcile_job, *RETENTION_JOBS],
    sensors=[view_count_updates_sensor, run_failure],
    schedules=[sweep_schedule, close_yesterday, refresh_today, *RETENTION_SCHEDULES],
    executor=dg.in_process_executor,  # for what is materialized by hand: nothing is passed between processes
    loggers={"console": console},
    resources={
        # EnvVar: the UI shows the variable's name, not the URL with its password
        "redis": RedisResource(
            url=dg.EnvVar("REDIS_URL"),
            counter_prefix=settings.counter_prefix,
            totals_channel=settings.totals_channel,
            wait_replicas=settings.redis_wait_replicas,
            wait_aof=bool(settings.redis_wait_aof),
            wait_timeout_ms=settings.redis_wait_timeout_ms,
        ),
        "postgres": PostgresResource(
            url=dg.EnvVar("DATABASE_URL"),
            target_table=settings.target_table,
            target_id_column=settings.target_id_column,
            target_count_column=settings.target_count_column,
        ),
        IN_MEMORY: dg.mem_io_manager,
    },
)
