"""The first day of `daily_views`."""

from __future__ import annotations

import logging
from datetime import date, datetime

from viewer_pipeline.errors import SchemaMissing, ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.history.days import day_of, today
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)
FIRST_RELEASE = date(2026, 1, 1)  # no ledger is older

log = logging.getLogger("viewer_pipeline.history")


def first_day_of_history(settings: Settings) -> date:
    """Return HISTORY_START, else the day of the first flush; today, if the ledger has none.

    FIRST_RELEASE if the ledger cannot be read: too early a day does no harm.
    """
    if settings.history_start is not None:
        return settings.history_start
    zone = settings.history_timezone
    if settings.database_url is None:
        return FIRST_RELEASE
    try:
        with Ledger.of(settings).connect(any_server=True) as connection:
            row: tuple[datetime | None, date | None] = fetch_one(connection, SQL["first_flush_and_day"])
    except SchemaMissing:  # a new database, which is migrated later
        return today(zone)
    except ViewerPipelineError as error:
        log.warning(event("first_day_not_read", assumed=FIRST_RELEASE, reason=error))
        return FIRST_RELEASE
    first_flush, first_day = row
    days = [day for day in (first_day, first_flush and day_of(first_flush, zone)) if day is not None]
    return min(days, default=today(zone))
