"""The schedules of the retention jobs: daily, if there is something to prune."""

import time

import dagster as dg

from viewer_pipeline.errors import HistoryTimezoneChanged
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.retention_position import read_retention_position
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.history.days import today
from viewer_pipeline.history.pruning import count_old_parked, count_old_rejected, first_day_kept, plan_ledger_pruning
from viewer_pipeline.orchestration.partitions import TIMEZONE
from viewer_pipeline.orchestration.retention_jobs import prune_ledger_days, prune_rejected_and_parked, prune_run_history
from viewer_pipeline.orchestration.run_history_pruning import (
    RunRetention,
    find_old_reports,
    find_old_runs,
    find_runs_to_keep,
)
from viewer_pipeline.orchestration.run_trigger_tag import build_scheduled_run_request
from viewer_pipeline.orchestration.sensor_and_schedule_decorators import schedule
from viewer_pipeline.orchestration.settings_resource import SettingsResource
from viewer_pipeline.orchestration.sweep_and_rollup_schedules import skip_until_backfill
from viewer_pipeline.stores.postgres import connect_dagster_storage

NO_RETENTION_PERIOD = "no retention period is set: everything is kept"


# Apart from each other, and after yesterday was closed. A skipped run saves three seconds of CPU.
@schedule(target=prune_ledger_days, cron_schedule="20 3 * * *", execution_timezone=TIMEZONE.key)
def prune_ledger_days_daily(settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
    """Prune old days of the ledger, daily at 03:20 (HISTORY_TIMEZONE). Skips with the reason if none can be pruned."""
    if not (days := settings.ledger_retention_days):
        return dg.SkipReason(NO_RETENTION_PERIOD)
    with Stores.open(settings) as stores, stores.ledger.connect() as connection:
        markers = read_retention_position(stores, connection).markers
        zone = settings.history_timezone
        try:
            plan = plan_ledger_pruning(connection, first_day_kept(today(zone), days), markers, zone)
        except HistoryTimezoneChanged as error:
            return skip_until_backfill(error)
    if not plan.days:
        return dg.SkipReason(plan.stop_reason or f"no flush is older than {days} days")
    return build_scheduled_run_request("old days of the ledger")


@schedule(target=prune_run_history, cron_schedule="40 3 * * *", execution_timezone=TIMEZONE.key)
def prune_run_history_daily(settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
    """Delete old runs from Dagster's history, daily at 03:40 (HISTORY_TIMEZONE). Skips if no run is old."""
    if not any(ages := RunRetention.of(settings)):
        return dg.SkipReason(NO_RETENTION_PERIOD)
    with connect_dagster_storage(settings) as connection:
        old = find_old_runs(connection, find_runs_to_keep(connection), ages, time.time(), limit=1) or find_old_reports(
            connection, ages, time.time(), limit=1
        )
    return build_scheduled_run_request("old runs") if old else dg.SkipReason("no run is old")


@schedule(target=prune_rejected_and_parked, cron_schedule="0 4 * * *", execution_timezone=TIMEZONE.key)
def prune_rejected_and_parked_daily(settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
    """Prune old rejected and parked input, daily at 04:00 (HISTORY_TIMEZONE).

    Skips if nothing is old, or no period is set.
    """
    rejected_days, parked_days = settings.rejected_retention_days, settings.parked_retention_days
    if not rejected_days and not parked_days:
        return dg.SkipReason(NO_RETENTION_PERIOD)
    ledger = Ledger.of(settings)
    with ledger.connect() as connection:
        old = count_old_rejected(connection, rejected_days) if rejected_days else 0
        if not old and parked_days and (target := ledger.target(connection)) is not None:
            old = count_old_parked(connection, target, parked_days).vods
    return build_scheduled_run_request("old rejected or parked input") if old else dg.SkipReason("nothing is old")


RETENTION_SCHEDULES = [prune_ledger_days_daily, prune_run_history_daily, prune_rejected_and_parked_daily]
