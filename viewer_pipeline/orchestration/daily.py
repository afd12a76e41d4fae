"""The asset `daily_views`, its checks, and the job that its schedules launch."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.history.daily import (
    ONE_DAY,
    Day,
    RolledUp,
    Window,
    roll_up,
    rolled_up_days,
    stale_days,
    top_of_day,
    unequal_days,
    views_per_hour,
)
from viewer_pipeline.orchestration.assets import GROUP, OWNERS, view_counts
from viewer_pipeline.orchestration.check_results import check_result
from viewer_pipeline.orchestration.hourly_chart import hourly_chart
from viewer_pipeline.orchestration.ops import TOP, TRANSIENT, retry_only_transient
from viewer_pipeline.orchestration.partitions import DAYS, IN_ONE_RUN, format_window, window_of
from viewer_pipeline.orchestration.resources import PostgresResource
from viewer_pipeline.orchestration.trigger import tag_trigger

DAILY = "daily_views"
DAILY_TAGS = {"viewer/job": "daily", "dagster/max_runtime": "7200"}  # a day of 10 million entries takes minutes
LOOK_BACK = timedelta(days=7)  # how long a late flush makes its day be added up again by itself
FINAL = "the ledger of this day was dropped: its rows are final and were left as they are"

CHECKS = {
    "daily_equals_ledger": "The views of each day are those of its flushes; only days whose ledger is kept.",
    "yesterday_is_complete": "No closed day of the last week has flushes that came after it was added up.",
}


@dg.asset(
    name=DAILY,
    partitions_def=DAYS,
    backfill_policy=IN_ONE_RUN,
    deps=[view_counts],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    retry_policy=TRANSIENT,
    check_specs=[dg.AssetCheckSpec(name, asset=DAILY, description=said) for name, said in CHECKS.items()],
    # Yesterday closes at 00:10 UTC, and a day without views is closed as well.
    freshness_policy=dg.FreshnessPolicy.cron("0 1 * * *", lower_bound_delta=timedelta(hours=24)),
    metadata={"dagster/table_name": "viewer.daily_views"},
)
def daily_views(context: dg.AssetExecutionContext, postgres: PostgresResource) -> Iterator[Any]:
    """Views of each VOD on each day (UTC), in the table `viewer.daily_views`, from the ledger.

    A day can be materialized at any time and as often as you like: it is added up anew, and the same ledger gives the
    same rows. A range of days is one run and one transaction. Views belong to the day on which their counter was read.
    Days whose ledger was dropped (`LEDGER_RETENTION_DAYS`) are final and left as they are.
    """
    tag_trigger(context)
    window = window_of(context)
    with retry_only_transient(), postgres.ledger().connect() as connection:
        done = roll_up(connection, window)
        context.log.info(
            f"added up {len(done.added_up)} days anew, {len(done.final)} are final: {format_window(window)}"
        )
        for day in rolled_up_days(connection, window):
            _report(context, connection, done, day)
        checks = [_daily_equals_ledger(connection, window), _yesterday_is_complete(connection)]
    yield dg.MaterializeResult(check_results=checks)


def _report(context: dg.AssetExecutionContext, connection: psycopg.Connection, done: RolledUp, day: Day) -> None:
    """Add what there is to say of one day to its own event."""
    top = [dg.TableRecord({"vod_id": vod_id, "views": views}) for vod_id, views in top_of_day(connection, day.day, TOP)]
    columns = [dg.TableColumn("vod_id", "string"), dg.TableColumn("views", "int")]
    metadata: dict[str, Any] = {
        "views": day.views,
        "vods": day.vods,
        "dagster/partition_row_count": day.vods,
        "last_flush": day.last_flush,
        "seconds": done.seconds,
        "top_vods": dg.MetadataValue.table(top, dg.TableSchema(columns)),
    }
    if day.kept:
        hours = views_per_hour(connection, day.day)
        metadata |= {"flushes": day.flushes, "views_per_hour": dg.MetadataValue.md(hourly_chart(day.day, hours))}
    else:
        metadata["notes"] = FINAL
    context.add_asset_metadata(metadata, partition_key=day.day.isoformat())


def _daily_equals_ledger(connection: psycopg.Connection, window: Window) -> dg.AssetCheckResult:
    unequal = unequal_days(connection, window)
    failing = [f"{day}: {rolled} views, the ledger has {views}" for day, rolled, views in unequal]
    said = f"{len(failing)} days differ from the ledger" if failing else "as the ledger says"
    return _result("daily_equals_ledger", failing, said)


def _yesterday_is_complete(connection: psycopg.Connection) -> dg.AssetCheckResult:
    today = datetime.now(UTC).date()
    stale = stale_days(connection, max(DAYS.start.date(), today - LOOK_BACK), today - ONE_DAY)
    failing = [day.isoformat() for window in stale for day in window.days()]
    said = f"{len(failing)} closed days have flushes that are not added up" if failing else "closed days are whole"
    return _result("yesterday_is_complete", failing, said)


def _result(name: str, failing: list[str], said: str) -> dg.AssetCheckResult:
    return check_result(DAILY, CheckResult.of_rows(name, failing, said))


roll_up_days = dg.define_asset_job(
    "roll_up_days",
    selection=[daily_views],
    description="Add days of the ledger up by VOD. Its schedules launch it where flushes came since the last time.",
    executor_def=dg.in_process_executor,
    tags=DAILY_TAGS,
)
