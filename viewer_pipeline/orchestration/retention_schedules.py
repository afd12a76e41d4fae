"""When housekeeping runs: daily, where a look shows that there is something to drop."""

import time
from datetime import UTC, datetime

import dagster as dg

from viewer_pipeline.flush.ownership import own_marker
from viewer_pipeline.history.retention import first_day_kept, old_parked, old_rejected, plan_ledger
from viewer_pipeline.orchestration import decorators
from viewer_pipeline.orchestration.resources import PostgresResource, RedisResource, stores
from viewer_pipeline.orchestration.retention import prune_input, prune_ledger_days, prune_run_history
from viewer_pipeline.orchestration.run_history import Ages, connect, latest_runs, old_runs
from viewer_pipeline.orchestration.trigger import TRIGGER_TAG
from viewer_pipeline.settings import load_settings

ON = dg.DefaultScheduleStatus.RUNNING
KEPT = "no setting asks for it: everything is kept"


def ledger_wait(redis: RedisResource, postgres: PostgresResource) -> str:
    """Return why there is nothing to drop from the ledger; empty where there is."""
    if not (days := load_settings().ledger_retention_days):
        return KEPT
    with stores(redis, postgres) as both, both.ledger.connect() as connection:
        marker = own_marker(both.redis, both.ledger, connection)
        plan = plan_ledger(connection, first_day_kept(datetime.now(UTC).date(), days), marker)
    return "" if plan.days else plan.why_no_more or f"no flush is older than {days} days"


def history_wait() -> str:
    """Return why no run is to be deleted; empty where one is."""
    settings = load_settings()
    ages = Ages(settings.run_retention_days, settings.failed_run_retention_days)
    if not any(ages):
        return KEPT
    with connect(settings) as connection:
        old = old_runs(connection, latest_runs(connection), ages, time.time(), limit=1)
    return "" if old else "no run is old"


def input_wait(postgres: PostgresResource) -> str:
    """Return why no input is to be forgotten; empty where some is."""
    rejected, parked = load_settings().rejected_retention_days, load_settings().parked_retention_days
    if not rejected and not parked:
        return KEPT
    ledger = postgres.ledger()
    with ledger.connect() as connection:
        if rejected and old_rejected(connection, rejected):
            return ""
        target = ledger.target(connection)
        old = target is not None and parked and old_parked(connection, target, parked).vods
    return "" if old else "nothing is old"


def _request(wait: str, what: str) -> dg.RunRequest | dg.SkipReason:
    if wait:
        return dg.SkipReason(wait)
    return dg.RunRequest(tags={TRIGGER_TAG: f"schedule: {what}"}, run_config={"loggers": {"console": {"config": {}}}})


# Apart from each other, and after yesterday was closed. A run for nothing would cost five seconds of CPU.
@decorators.schedule(target=prune_ledger_days, cron_schedule="20 3 * * *", execution_timezone="UTC", default_status=ON)
def prune_ledger_days_daily(redis: RedisResource, postgres: PostgresResource) -> dg.RunRequest | dg.SkipReason:
    """Drop old days of the ledger, daily at 03:20 UTC. Skips, and says why, where none can be dropped."""
    return _request(ledger_wait(redis, postgres), "old days of the ledger")


@decorators.schedule(target=prune_run_history, cron_schedule="40 3 * * *", execution_timezone="UTC", default_status=ON)
def prune_run_history_daily() -> dg.RunRequest | dg.SkipReason:
    """Delete old runs from Dagster's history, daily at 03:40 UTC. Skips where no run is old."""
    return _request(history_wait(), "old runs")


@decorators.schedule(target=prune_input, cron_schedule="0 4 * * *", execution_timezone="UTC", default_status=ON)
def prune_input_daily(postgres: PostgresResource) -> dg.RunRequest | dg.SkipReason:
    """Forget old rejected and parked input, daily at 04:00 UTC. Skips where nothing is old, or no setting asks."""
    return _request(input_wait(postgres), "old rejected or parked input")


RETENTION_SCHEDULES = [prune_ledger_days_daily, prune_run_history_daily, prune_input_daily]
