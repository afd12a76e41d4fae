"""The first day of `daily_views`."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime

from viewer_pipeline.errors import SchemaMissing, ViewerPipelineError
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.logs import event
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import fetch_one, named_queries

SQL = named_queries(__name__)
FIRST_RELEASE = date(2026, 1, 1)  # no ledger is older

log = logging.getLogger("viewer_pipeline.history")


def first_day_of_history(settings: Settings) -> date:
    """Return HISTORY_START, else the day (UTC) of the first flush; today, if the ledger has none.

    FIRST_RELEASE if the ledger cannot be read: too early a day does no harm.
    """
    if settings.history_start is not None:
        return settings.history_start
    today = datetime.now(UTC).date()
    if settings.database_url is None:
        return FIRST_RELEASE
    try:
        with Ledger.of(settings).connect(any_server=True) as connection:
            first: date | None = fetch_one(connection, SQL["first_day"])[0]
    except SchemaMissing:  # a new database, which is migrated later
        return today
    except ViewerPipelineError as error:
        log.warning(event("first_day_not_read", assumed=FIRST_RELEASE, reason=error))
        return FIRST_RELEASE
    return first or today
