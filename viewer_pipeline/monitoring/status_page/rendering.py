"""Renders the status page. Its template escapes every value: ids of VODs and messages come from anybody."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.history.days import today
from viewer_pipeline.monitoring.health_change_log import WATCH_SECONDS
from viewer_pipeline.monitoring.health_rules import INCIDENT_TOPICS, INCIDENTS
from viewer_pipeline.monitoring.startup import STARTING, is_about_to_start
from viewer_pipeline.monitoring.status_page.bar_chart import count_noun, format_flush_number, format_number
from viewer_pipeline.monitoring.status_page.charts import build_charts
from viewer_pipeline.monitoring.status_page.grouped_checks import (
    DAEMON_CHECKS,
    DAEMONS_GROUP,
    GroupedChecks,
    group_checks,
)
from viewer_pipeline.monitoring.status_page.stall import find_stall
from viewer_pipeline.redaction import redact_text
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import escape_invisible
from viewer_pipeline.time_formatting import format_age, format_duration, seconds_since

if TYPE_CHECKING:
    from viewer_pipeline.monitoring.status_page.page import StatusReading

TABLE_FLUSHES = 12

_CODE = re.compile("`([^`]+)`")
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def render_page(reading: StatusReading, settings: Settings) -> str:
    """Return the page as HTML."""
    ui, zone = settings.dagster_ui_url, settings.history_timezone
    html: str = _template(zone).render(
        reading=reading,
        pending=reading.redis.value,
        stored=reading.postgres.value,
        check_seconds=WATCH_SECONDS,
        checks=group_checks(reading.checks),
        server_checks=reading.checks_of_failures,
        reported={cause.error for cause in reading.failures.values()}
        | {cause.message for cause in reading.checks_of_failures.values()},
        stall=find_stall(reading, settings),
        charts=build_charts(reading, datetime.now(zone)),
        now=datetime.now(UTC),
        zone=zone.key,
        ui=ui and ui.rstrip("/"),
        max_flushes=TABLE_FLUSHES,
        incidents=INCIDENTS,
        incident_topics=INCIDENT_TOPICS,
        command_to_type=command_to_type,
        starting=STARTING.capitalize(),
        is_about_to_start=partial(_is_about_to_start, up_is_starting=reading.up_is_starting),
    )
    return html


@cache
def _template(zone: ZoneInfo) -> Template:
    environment = Environment(
        loader=PackageLoader("viewer_pipeline.monitoring.status_page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_show_invisible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "flush_number": format_flush_number,
        "counted": count_noun,
        "age": lambda moment: format_age(seconds_since(moment)),
        "duration": format_duration,
        "moment": lambda moment: moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z"),
        "time": partial(_time_or_date, zone),
        "prose": _render_prose,
    }
    environment.tests["run_id"] = lambda text: _RUN_ID.fullmatch(str(text)) is not None
    return environment.get_template("status.html")


def _time_or_date(zone: ZoneInfo, moment: datetime) -> str:
    """Return the time, with the date if that is not today's."""
    moment = moment.astimezone(zone)
    return moment.strftime("%H:%M:%S" if moment.date() == today(zone) else "%Y-%m-%d %H:%M:%S")


def _is_about_to_start(group: GroupedChecks, *, up_is_starting: bool) -> bool:
    names = (DAEMON_CHECKS if name == DAEMONS_GROUP else {name} for name in group.names)
    return all(is_about_to_start(name, up_is_starting=up_is_starting) for each in names for name in each)


def _render_prose(text: str) -> Markup:
    """Return a message or remedy as HTML: without passwords, escaped, with what is in backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(escape_invisible(redact_text(text))))))  # noqa: S704 - escaped


def _show_invisible(value: object) -> object:
    return escape_invisible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
