"""Days of `daily_views`, added up in this process and recorded in Dagster's history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from viewer_pipeline.definitions import defs
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.history.daily import ONE_DAY, Window
from viewer_pipeline.orchestration.daily import roll_up_days
from viewer_pipeline.orchestration.partitions import in_words, run_tags_of
from viewer_pipeline.orchestration.why import WHY
from viewer_pipeline.settings import Settings


@dataclass(frozen=True)
class Backfill:
    """A run that has ended: what it says of each day, and which checks failed."""

    run_id: str
    success: bool
    days: dict[str, dict[str, Any]]
    failed_checks: list[str]


def days_asked_for(settings: Settings, first: date, last: date | None) -> Window:
    """Return the days from `first` to `last` (today, if none is given). Raises SettingsError for days that are none."""
    today = datetime.now(UTC).date()
    window = Window(first, (last or today) + ONE_DAY)
    if not settings.history_start <= window.start < window.end <= today + ONE_DAY:
        raise SettingsError(
            f"{first} to {window.end - ONE_DAY}: expected days from HISTORY_START={settings.history_start} to {today}"
        )
    return window


def run_backfill(instance: dg.DagsterInstance, window: Window) -> Backfill:
    """Add these days up in one run, in this process."""
    result = defs.resolve_job_def(roll_up_days.name).execute_in_process(
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        instance=instance,
        tags={WHY: f"command line: backfill of {in_words(window)}", **run_tags_of(window)},
        raise_on_error=False,
    )
    days = {
        str(event.partition): {
            name: value.value
            for name, value in event.materialization.metadata.items()
            if name in ("views", "vods", "flushes", "notes")
        }
        for event in result.get_asset_materialization_events()
    }
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    return Backfill(result.run_id, result.success, days, failed)
